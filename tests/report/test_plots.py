from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from delf_tf.checks import InputError
from delf_tf.report import plots


def _figure(**options):
    left, right = np.full((60, 80, 3), 10, np.uint8), np.full((90, 50, 3), 20, np.uint8)
    query, database = np.array([[10.0, 20.0], [30.0, 40.0]]), np.array([[50.0, 5.0], [70.0, 25.0]])
    mask = options.pop("mask", np.array([True, False]))
    return plots.matches_figure(left, right, query, database, mask, **options)


def _pixels(figure):
    return np.asarray(Image.open(io.BytesIO(plots.figure_bytes(figure))).convert("RGB")).astype(int)


def _is_green(pixel):
    return pixel[1] > pixel[0] + 60 and pixel[1] > pixel[2] + 30


def test_one_pixel_a_pixel_and_a_line_from_point_to_point():
    pixels = _pixels(_figure())
    assert pixels.shape == (90, 80 + 12 + 50, 3)
    # Halfway from (y 10, x 20) to (y 50, x 80 + 12 + 5): (30, 58.5).
    assert any(_is_green(pixels[30, x]) for x in (57, 58, 59, 60))
    # The outlier is not drawn: halfway from (30, 40) to (70, 117) nothing is.
    assert not any(_is_green(pixels[50, x]) for x in (77, 78, 79, 80))
    assert pixels[5, 5].tolist() == [10, 10, 10]
    assert pixels[85, 5].tolist() == [255, 255, 255]


def test_outliers_on_demand_are_red():
    pixels = _pixels(_figure(show_outliers=True))
    middle = pixels[50, 76:82]
    assert (middle[:, 0] > middle[:, 1] + 20).any()


def test_outline_is_where_the_transform_takes_it():
    shift = np.array([[1.0, 0, 10], [0, 1, 15], [0, 0, 1]])
    drawn = _pixels(_figure(transform=shift)) - _pixels(_figure())
    # The left edge of the query, x = 0, goes to x = 92 + 10; its rows 0..59 to 15..74.
    assert np.abs(drawn[40, 100:105]).sum() > 0
    assert np.abs(drawn[40, 110:130]).sum() == 0


@pytest.mark.parametrize("transform", [np.zeros((3, 3)), np.diag([1.0, 1.0, -1.0])])
def test_no_transform_and_one_behind_the_camera_draw_no_outline(transform):
    np.testing.assert_array_equal(_pixels(_figure(transform=transform)), _pixels(_figure()))


def test_no_matches_at_all():
    empty, blank = np.zeros((0, 2)), np.zeros((20, 20, 3), np.uint8)
    figure = plots.matches_figure(blank, blank, empty, empty, np.zeros(0, bool), title="none")
    assert len(plots.figure_bytes(figure)) > 0


def test_save_figure(tmp_path):
    path = plots.save_figure(_figure(), tmp_path / "new" / "m.jpg")
    with Image.open(path) as image:
        assert image.format == "JPEG"
    one = plots.save_figure(_figure(), tmp_path / "one.png").read_bytes()
    assert one == plots.save_figure(_figure(), tmp_path / "two.png").read_bytes()
    with pytest.raises(InputError, match=r"png.*Received.*'xyz'"):
        plots.save_figure(_figure(), tmp_path / "m.xyz")
