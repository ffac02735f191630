"""Poolings of a backbone's last map; R-MAC against the steps of its paper, one region at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.extraction.batches import BatchExtractor
from delf_tf.extraction.extractor import Extractor
from delf_tf.models import masking
from delf_tf.models.create import create_model
from delf_tf.models.gem import RegionalMaxima
from delf_tf.models.layers import MaximumPooling
from delf_tf.models.zoo import checkpoint

NAME = "gem_mobilenet_v2"
NARROW = {"width_multiplier": 0.125}


def _unit(vector):
    return vector / max(np.linalg.norm(vector), 1e-12)


def _regions(height, width, num_scales=3):
    """The paper's section 4.1: (row, column, side), the largest scale first."""
    short, long = min(height, width), max(height, width)
    extra_rows = extra_columns = 0
    if long > short:
        overlaps = []
        for many in range(2, 8):
            step = (long - short) / (many - 1)
            overlaps.append(abs((short * short - short * step) / (short * short) - 0.4))
        extra = overlaps.index(min(overlaps)) + 1
        extra_rows, extra_columns = (extra, 0) if height > width else (0, extra)
    found = []
    for scale in range(1, num_scales + 1):
        side = math.floor(2 * short / (scale + 1))
        rows, columns = scale + extra_rows, scale + extra_columns
        for i in range(rows):
            for j in range(columns):
                top = 0 if rows == 1 else math.floor(i * (height - side) / (rows - 1) + 1e-9)
                left = 0 if columns == 1 else math.floor(j * (width - side) / (columns - 1) + 1e-9)
                found.append((top, left, side))
    return found


def _map(height, width, channels=5):
    values = np.random.RandomState(height * 100 + width).normal(0, 1, (2, height, width, channels))
    return values.astype(np.float32)


@pytest.mark.parametrize(
    "size", [(7, 7), (2, 2), (6, 9), (9, 6), (12, 20), (20, 12), (5, 31), (13, 14), (3, 2)]
)
def test_rmac_takes_the_maxima_of_the_papers_regions(size):
    x = _map(*size)
    maxima, centres = RegionalMaxima()(x)
    regions = _regions(*size)
    assert maxima.shape == (2, len(regions), 5)
    for number, (top, left, side) in enumerate(regions):
        window = x[:, top : top + side, left : left + side]
        np.testing.assert_array_equal(maxima[:, number], window.max(axis=(1, 2)))
        middle = np.array([top + side / 2, left + side / 2]) / size
        np.testing.assert_allclose(centres[number], middle, rtol=1e-6)


def test_rmac_counts_what_the_paper_counts():
    # A square map: 1 + 4 + 9. One half as long again: l (l + m - 1) with m = 2.
    assert len(_regions(8, 8)) == RegionalMaxima()(_map(8, 8))[0].shape[1] == 14
    assert RegionalMaxima()(_map(8, 12))[0].shape[1] == 2 + 6 + 12


def test_rmac_of_a_single_cell_is_that_cell():
    x = _map(1, 1)
    maxima, _ = RegionalMaxima()(x)
    np.testing.assert_array_equal(maxima, np.repeat(x[:, 0], maxima.shape[1], axis=1))


def test_rmac_is_one_graph_for_every_size():
    layer = RegionalMaxima()
    graph = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 5])])
    for size in ((4, 9), (9, 4), (6, 6)):
        for got, wanted in zip(graph(_map(*size)), layer(_map(*size))):
            np.testing.assert_array_equal(got, wanted)


def _images(height=64, width=160):
    return np.random.RandomState(0).uniform(0, 255, (2, height, width, 3)).astype(np.float32)


def test_rmac_sums_whitened_unit_vectors_of_regions():
    model = create_model(NAME, seed=1, global_pooling="rmac", embedding_dim=6, **NARROW)
    model.whitening.bias.assign(np.random.RandomState(1).normal(0, 0.1, 6))
    images = _images()
    deepest = model.backbone.levels[-1]
    last = np.asarray(model.backbone(model.preprocess(images), last=deepest)[deepest], np.float64)
    kernel, bias = (np.asarray(one, np.float64) for one in model.whitening.get_weights())
    for image, got in zip(last, model(images)["global"]):
        total = 0
        for top, left, side in _regions(*image.shape[:2]):
            strongest = image[top : top + side, left : left + side].max(axis=(0, 1))
            total = total + _unit(_unit(strongest) @ kernel + bias)
        np.testing.assert_allclose(got, _unit(total), atol=1e-5)
    assert model.global_dim == 6


@pytest.mark.parametrize(("pooling", "reduce"), [("average", np.mean), ("max", np.max)])
def test_mac_and_spoc_pool_the_whole_map(pooling, reduce):
    model = create_model(NAME, seed=1, global_pooling=pooling, **NARROW)
    deepest = model.backbone.levels[-1]
    last = np.asarray(model.backbone(model.preprocess(_images()), last=deepest)[deepest])
    wanted = [_unit(one) for one in reduce(last, axis=(1, 2))]
    np.testing.assert_allclose(model(_images())["global"], wanted, atol=1e-5)
    assert model.training_outputs(_images())["embedding"].shape == (2, model.global_dim)


def test_the_local_features_of_rmac_are_its_regions():
    model = create_model(NAME, seed=1, global_pooling="rmac", embedding_dim=6, **NARROW)
    images = _images()
    result = model(images, outputs=("local",))
    deepest = model.backbone.levels[-1]
    maxima, _ = model.pooling(model.backbone(model.preprocess(images), last=deepest)[deepest])
    np.testing.assert_allclose(result["features"][:, 0], maxima, atol=1e-6)
    assert result["features"].shape[-1] == model.local_dim == model.pooled_widths[0]
    # The first region lies at the left of an image that is wider than high.
    np.testing.assert_allclose(result["locations"][0, 0, 0], [31.5, 31.5])
    found = Extractor(model, use_local_features=True, use_global_features=True)(
        tf.constant(images[0], tf.uint8)
    )
    assert len(found["descriptors"]) == maxima.shape[1]
    assert found["global_descriptor"].shape == (6,)


def test_weights_fit_every_pooling(tmp_path):
    model = create_model(NAME, seed=1, **NARROW)
    saved = checkpoint.save_weights(model, tmp_path / "w.npz")
    wanted = create_model(NAME, seed=1, global_pooling="rmac", **NARROW)(_images())["global"]
    got = create_model(NAME, saved, global_pooling="rmac")(_images())["global"]
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_padding_is_never_the_maximum():
    x = -1 - np.abs(_map(2, 2))
    with masking.valid_area(tf.constant([[64, 32], [32, 64]]), (64, 64)):
        got = MaximumPooling()(masking.masked(x))
    np.testing.assert_array_equal(got, [x[0, :, :1].max(axis=(0, 1)), x[1, :1].max(axis=(0, 1))])


def test_refuses_another_pooling_and_batches_of_regions():
    with pytest.raises(InputError, match="global_pooling must be one of gem, average, max, rmac"):
        create_model(NAME, global_pooling="rmca")
    model = create_model(NAME, seed=1, global_pooling="rmac", **NARROW)
    with pytest.raises(InputError, match="one image at a time"):
        BatchExtractor(Extractor(model))
