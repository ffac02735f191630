from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.extraction import levels, pyramid, resize


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((768, 1024), {}, (768, 1024)),
        ((768, 1024), {"max_side": 512}, (384, 512)),
        ((100, 50), {"min_side": 200}, (200, 100)),
        ((100, 50), {"max_side": 100, "min_side": 10}, (100, 50)),
        ((100, 50), {"square": True}, (100, 100)),
        # 37 * 32 / 53 = 22.34; 5 * 2 / 20 = 0.5, half to even, but never nothing.
        ((37, 53), {"max_side": 32}, (22, 32)),
        ((5, 20), {"max_side": 2}, (1, 2)),
        # 341.3 / 32 = 10.67; 20 / 32 rounds to 1, 10 / 32 to nothing, which becomes one.
        ((768, 1152), {"max_side": 512, "multiple": 32}, (352, 512)),
        ((20, 10), {"multiple": 32}, (32, 32)),
    ],
)
def test_limited_size(size, options, expected):
    assert pyramid.limited_size(*size, **options) == expected


@pytest.mark.parametrize(
    ("case", "options"),
    [
        (0, {"max_side": 32}),
        (1, {"min_side": 100}),
        (2, {}),
        (3, {"max_side": 40, "square": True}),
        (4, {"square": True}),
        (5, {"max_side": 32}),
    ],
)
def test_resize_is_the_originals(golden_dir, case, options):
    golden = np.load(golden_dir / "delf/inference/inference.npz")
    expected = golden[f"resize{case}_img"]
    resized = pyramid.resize_to_limit(golden["img"], **options)
    np.testing.assert_array_equal(resized, expected)
    factors = np.array(resized.shape[:2]) / golden["img"].shape[:2]
    np.testing.assert_allclose(factors, golden[f"resize{case}_factors"])


def test_lanczos_keeps_what_bilinear_blurs():
    stripes = np.zeros([80, 80, 3], np.uint8)
    stripes[:, np.arange(80) // 4 % 2 == 0] = 255
    kept = {
        name: pyramid.resize_to_limit(stripes, max_side=32, multiple=32, resize_filter=name)
        for name in pyramid.FILTERS
    }
    assert kept["lanczos3"].std() > kept["bilinear"].std() + 5
    with pytest.raises(InputError, match="resize_filter"):
        pyramid.resize_to_limit(stripes, resize_filter="cubic")


def test_pyramid_level_is_the_originals(golden_dir):
    golden = np.load(golden_dir / "delf/inference/inference.npz")
    level = levels.pyramid_level(tf.cast(golden["pyr_img"], tf.float32), 0.70710677)
    assert level.shape == tuple(golden["pyr_resized_half_shape"])
    every_17th = level.numpy().reshape(-1)[::17]
    np.testing.assert_allclose(every_17th, golden["pyr_resized_half"], atol=1e-3)


def test_scaled_size_rounds_half_to_even_and_keeps_a_pixel():
    for size, scale, expected in (((5, 7), 0.5, (2, 4)), ((1, 3), 0.25, (1, 1))):
        assert tuple(levels.scaled_size(tf.constant(size), scale).numpy()) == expected
        assert pyramid.scaled_size(size, scale) == expected


@pytest.mark.parametrize("size", [(50, 91), (31, 40), (97, 133), (61, 77), (1, 3)])
def test_levels_without_tensorflow_are_the_same(size):
    images = np.random.default_rng(0).integers(0, 256, (2, 61, 77, 3)).astype(np.uint8)
    expected = tf.image.resize(tf.cast(images, tf.float32), size, antialias=False)
    found = resize.pyramid_level(images, size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_scale_one_changes_nothing():
    image = tf.random.stateless_uniform([4, 5, 3], [0, 1])
    assert levels.pyramid_level(image, 1.0) is image
