"""Centres of cells: by hand, and by what a cell of the real networks answers to."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.models.backbones.create import create_backbone
from delf_tf.models.create import create_model
from delf_tf.models.geometry import CellGrid, Window, cell_grid
from delf_tf.models.variables import variables_by_path


def test_no_window_is_the_image():
    assert cell_grid([], 7) == CellGrid(1, 0.0, 7)


@pytest.mark.parametrize(
    ("window", "size", "grid"),
    [
        # Cells look at pixels -1..1, 1..3, 3..5: centres 0, 2, 4.
        (Window(3, 2, "symmetric"), 5, (2, 0.0, 3)),
        (Window(3, 2, "symmetric"), 6, (2, 0.0, 3)),
        # TensorFlow pads an even size after the end only: 0..2, 2..4, 4..6.
        (Window(3, 2, "same"), 6, (2, 1.0, 3)),
        (Window(3, 2, "same"), 5, (2, 0.0, 3)),
        (Window(3, 2, "valid"), 6, (2, 1.0, 2)),
        (Window(2, 2, "valid"), 6, (2, 0.5, 3)),
        (Window(7, 2, "same"), 8, (2, 1.0, 4)),
        (Window(3, 2, "valid"), 1, (2, 1.0, 0)),
    ],
)
def test_one_window(window, size, grid):
    assert cell_grid([window], size) == CellGrid(*grid)


@pytest.mark.parametrize("size", [1, 224, 321, 1023, 1024])
def test_the_originals_network(size):
    """The centre that reference measurements found: 3 px for even sizes, 2 px for odd ones."""
    backbone, _ = create_backbone("resnet50", "keras", width_multiplier=0.125)
    grid = backbone.grid("stride16", size)
    assert (grid.stride, grid.offset) == (16, 2.0 if size % 2 else 3.0)


@pytest.mark.parametrize("size", [0, -1])
def test_refuses_no_pixels(size):
    with pytest.raises(InputError, match="size must be at least 1"):
        cell_grid([], size)


def _make_linear(layer):
    """Makes a network answer, with a positive weight, to every pixel that a cell can see.

    Positive inputs stay positive, so no ReLU cuts a path; gates of squeeze and excitation, which
    see the whole image, are held still.
    """
    for path, variable in variables_by_path(layer).items():
        leaf = path.rsplit(".", 1)[-1]
        shape = tuple(variable.shape)
        if leaf == "kernel":
            inputs = np.prod(shape[:2]) if shape[-1] == 1 else np.prod(shape[:-1])
            gate = "_se_" in path
            variable.assign(np.full(shape, 0.0 if gate else 1.0 / inputs, np.float32))
        elif leaf in ("gamma", "moving_variance", "variance"):
            # Residual sums must stay below the 6 at which ReLU6 cuts.
            damped = leaf == "gamma" and "project" in path
            variable.assign(np.full(shape, 0.1 if damped else 1.0, np.float32))
        elif leaf in ("beta", "bias", "moving_mean", "mean"):
            variable.assign(np.zeros(shape, np.float32))


def _seen_rows(compute, height, width, row):
    """Returns the first and the last image row that a cell in the middle of a map row sees.

    Images that brighten downwards and upwards, so that max pooling takes either end of its window.
    """
    seen = np.zeros(height, bool)
    for slope in (0.5, -0.5):
        shade = 1 + slope * np.linspace(-1, 1, height, dtype=np.float32)
        images = tf.constant(np.broadcast_to(shade[:, None, None], (1, height, width, 3)))
        with tf.GradientTape() as tape:
            tape.watch(images)
            feature_map = compute(images)
            answer = tf.reduce_sum(feature_map[0, row, feature_map.shape[2] // 2])
        seen |= np.abs(tape.gradient(answer, images)).sum(axis=(0, 2, 3)) > 0
    rows = seen.nonzero()[0]
    return rows[0], rows[-1], feature_map.shape[1]


def _check_centre(backbone, level, height, width):
    grid = backbone.grid(level, height)
    row = grid.num_cells // 2
    maps = tf.function(lambda x: backbone(x, training=False, last=level)[level])
    first, last, cells = _seen_rows(maps, height, width, row)
    assert cells == grid.num_cells
    assert first > 0
    assert last < height - 1
    assert (first + last) / 2 == grid.offset + grid.stride * row


NETWORKS = [
    ("resnet50", {"backbone_form": "torchvision", "width_multiplier": 0.125}),
    ("resnet50", {"backbone_form": "keras", "width_multiplier": 0.125}),
    ("resnet50", {"backbone_form": "keras_applications", "width_multiplier": 0.125}),
    ("mobilenet_v2", {"width_multiplier": 0.125}),
    ("efficientnet_lite0", {"width_multiplier": 0.125}),
]


@pytest.mark.parametrize(("name", "options"), NETWORKS)
@pytest.mark.parametrize("height", [400, 417])
def test_cells_see_what_is_around_their_centre(name, options, height):
    backbone, _ = create_backbone(name, **options)
    backbone.build((None, None, None, 3))
    _make_linear(backbone)
    _check_centre(backbone, "stride16", height, 48)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "height"),
    [
        ("resnet50_v2", 800),
        ("keras:ResNet50", 800),
        ("keras:MobileNetV2", 800),
        ("keras:EfficientNetB0", 800),
        ("keras:InceptionV3", 1500),
        ("keras:VGG16", 800),
    ],
)
@pytest.mark.parametrize("more", [0, 3, 9])
def test_other_networks_cells_too(name, height, more):
    backbone, _ = create_backbone(name)
    backbone.build((None, None, None, 3))
    _make_linear(backbone)
    _check_centre(backbone, "stride16", height + more, 80)


def test_a_moved_image_moves_its_features():
    """The whole model with random weights: 16 px in the image are one cell of the map."""
    model = create_model("delf_mobilenet_v2", seed=1, width_multiplier=0.125)
    scene = np.random.RandomState(0).uniform(0, 255, (1, 500, 500, 3)).astype(np.float32)
    first = model(scene[:, :448, :448], outputs=("local",))["features"].numpy()
    second = model(scene[:, 16:464, 32:480], outputs=("local",))["features"].numpy()
    # Farther from the borders, which each crop pads with zeros, than a cell sees (267 / 2 px).
    middle = second[:, 10:18, 10:18]
    assert np.std(middle) > 0.1
    np.testing.assert_allclose(middle, first[:, 11:19, 12:20], rtol=1e-4, atol=1e-4)
