from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.datasets.input import augmentation, colour

SEED = np.array([3, 4], np.int32)
GREY = np.array([0.299, 0.587, 0.114])


def _image(height=6, width=8):
    return np.random.RandomState(0).uniform(0, 255, (height, width, 3)).astype(np.float32)


def _distort(name, strength):
    image = _image()
    return image, augmentation.DISTORTIONS[name](tf.constant(image), SEED, strength).numpy()


def _factor(strength):
    return 1 + float(tf.random.stateless_uniform([], SEED, -strength, strength))


def test_mean_colour():
    image = _image()
    np.testing.assert_allclose(colour.mean_colour(image), image.mean((0, 1)), rtol=1e-5)


def test_saturation_keeps_each_pixels_grey():
    image, got = _distort("saturation", 0.4)
    grey = (image @ GREY)[..., np.newaxis]
    np.testing.assert_allclose(got, grey + (image - grey) * _factor(0.4), atol=1e-3)


def test_contrast_keeps_the_mean_grey():
    image, got = _distort("contrast", 0.4)
    mean = (image @ GREY).mean()
    np.testing.assert_allclose(got, mean + (image - mean) * _factor(0.4), atol=1e-3)


def test_grey_takes_out_a_share():
    image, got = _distort("grey", 0.25)
    grey = (image @ GREY)[..., np.newaxis]
    np.testing.assert_allclose(got, 0.75 * image + 0.25 * grey, atol=1e-3)


def test_pca_lighting_shifts_every_pixel_alike():
    image, got = _distort("pca_lighting", 0.1)
    shift = (got - image).mean((0, 1))
    np.testing.assert_allclose(got, image + shift, atol=1e-3)
    assert np.abs(shift).max() > 0.1


@pytest.mark.parametrize("probability", [1.0, 0.6])
def test_a_row_of_changes_is_the_changes_one_after_the_other(probability):
    image = tf.constant(_image() / 4 + 60)
    names = ("brightness", "contrast", "saturation", "pca_lighting", "contrast", "grey")
    row = tuple((name, 0.2, probability) for name in names)
    for number in range(5):
        seed = tf.constant([1, number])
        expected = image
        for place, (name, strength, _) in enumerate(row):
            own = augmentation.fold_in(seed, place)
            draw = tf.random.stateless_uniform([], augmentation.fold_in(own, 1))
            if draw < probability:
                expected = augmentation.DISTORTIONS[name](expected, own, strength)
        assert float(tf.reduce_min(expected)) > 0 and float(tf.reduce_max(expected)) < 255
        np.testing.assert_allclose(augmentation.distort(image, seed, row), expected, atol=2e-3)


def test_changes_of_colour_keep_their_place_between_others():
    image = tf.constant(_image(24, 24))
    row = (("brightness", 0.3, 1.0), ("cutout", 0.5, 1.0), ("contrast", 0.3, 1.0))
    expected = image
    for number, (name, strength, _) in enumerate(row):
        own = augmentation.fold_in(SEED, number)
        expected = augmentation.DISTORTIONS[name](expected, own, strength)
    expected = np.clip(expected, 0, 255)
    np.testing.assert_allclose(augmentation.distort(image, SEED, row), expected, atol=2e-3)
