from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.report import maps, plots
from delf_tf.types import LocalFeatures

IMAGE = np.full((48, 80, 3), 128, np.uint8)


def _features(count):
    rng = np.random.RandomState(0)
    return LocalFeatures(
        rng.uniform(0, 40, (count, 2)).astype("f"),
        np.zeros((count, 4), "f"),
        np.arange(count, dtype="f"),
        np.full(count, 2.0, "f"),
    )


def _with_map(values, image=IMAGE, *, offset=(7.5, 7.5), title="map"):
    shown = SimpleNamespace(title=title, values=values, offset=offset, stride=16.0)
    return maps.overview_figure(image, [shown])


def _pixels(figure):
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def _agg(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    return figure


def test_a_map_lies_where_its_cells_see():
    values = np.zeros((3, 5), "f")
    axes = _with_map(values, offset=(0.0, 4.0), title="heat").axes[1]
    _, drawn = axes.images
    left, right, bottom, top = drawn.get_extent()
    # One more cell on every side: the first of 3 x 5 is centred at (0, 4).
    assert (left, right) == (4 - 8 - 16, 4 - 8 + 6 * 16)
    assert (top, bottom) == (0 - 8 - 16, 0 - 8 + 4 * 16)
    assert axes.get_title() == "heat"
    assert axes.get_xlim() == (-0.5, 79.5)
    assert axes.get_ylim() == (47.5, -0.5)


def test_the_hot_cell_is_the_bright_one():
    values = np.zeros((3, 5), "f")
    values[1, 3] = 1
    figure = _agg(_with_map(values))
    pixels = _pixels(figure)
    axes = figure.axes[1]
    height = pixels.shape[0]

    def at(y, x):
        column, row = axes.transData.transform((x, y))
        return pixels[height - 1 - round(row), round(column)].sum()

    assert at(23.5, 55.5) > at(23.5, 23.5) + 100


def test_one_outlier_does_not_hide_the_others():
    values = np.linspace(0, 1, 400, dtype="f").reshape(20, 20)
    values[0, 0] = 1e6
    drawn = _with_map(values).axes[1].images[1]
    assert drawn.norm.vmax < 1


def test_keypoints_are_circles_of_their_scale():
    features = _features(3)
    panel = maps.overview_figure(IMAGE, [], features).axes[1]
    (circles,) = panel.collections
    offsets = np.asarray(circles.get_offsets())
    np.testing.assert_allclose(offsets, features.locations[:, ::-1])
    np.testing.assert_allclose(circles.get_widths(), 32.0)
    assert circles.get_array().tolist() == [0, 1, 2]
    assert panel.get_title() == "3 local features"


def test_no_keypoints_at_all():
    figure = maps.overview_figure(IMAGE, [], _features(0))
    assert figure.axes[1].get_title() == "0 local features"
    assert plots.figure_bytes(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("count", [0, 1, 4])
def test_an_overview_has_a_panel_for_each(count):
    shown = [
        SimpleNamespace(title=f"map {k}", values=np.ones((3, 5), "f"), offset=(7.5, 7.5), stride=16)
        for k in range(count)
    ]
    figure = maps.overview_figure(IMAGE, shown, _features(2))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["image", *(f"map {k}" for k in range(count)), "2 local features"]
    assert plots.figure_bytes(figure).startswith(b"\x89PNG")
    assert len([a for a in maps.overview_figure(IMAGE, shown).axes if a.images]) >= 1 + count


@pytest.mark.parametrize(
    ("image", "values", "message"),
    [
        (IMAGE[..., 0], np.ones((2, 2)), "image must have shape"),
        (IMAGE, np.ones(3), "values must have shape"),
        (IMAGE, np.ones((0, 3)), "must have cells"),
        (IMAGE, np.full((2, 2), np.nan), "values must be finite"),
    ],
)
def test_bad_arguments(image, values, message):
    with pytest.raises(InputError, match=message):
        _with_map(values, image)
