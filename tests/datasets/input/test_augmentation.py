from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delf_tf.checks import InputError
from delf_tf.datasets.input import addons, augmentation

SEED = np.array([3, 4], np.int32)


def _jpeg(height=60, width=90):
    """A picture whose red grows downwards and whose green grows to the right."""
    rows = np.linspace(0, 255, height)[:, None] + np.zeros((1, width))
    columns = np.linspace(0, 255, width)[None] + np.zeros((height, 1))
    pixels = np.stack([rows, columns, np.full_like(rows, 100)], axis=-1).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=95, subsampling=0)
    return tf.constant(encoded.getvalue())


def _image(height=24, width=24):
    return tf.constant(np.random.RandomState(0).uniform(0, 255, (height, width, 3)), tf.float32)


def _in_tf_data(function, *args):
    dataset = tf.data.Dataset.from_tensors(args).map(function)
    return next(iter(dataset)).numpy()


@pytest.mark.parametrize("name", augmentation.CROPS)
def test_crops_are_the_same_eagerly_and_in_tf_data(name):
    def crop(encoded, seed):
        return augmentation.CROPS[name](encoded, seed, image_size=32)

    eager = crop(_jpeg(), SEED).numpy()
    assert eager.shape == (32, 32, 3)
    assert eager.dtype == np.float32
    assert 0 <= eager.min() <= eager.max() <= 255
    np.testing.assert_array_equal(eager, _in_tf_data(crop, _jpeg(), SEED))


@pytest.mark.parametrize("name", ["random_resized", "fixed"])
def test_random_crops_differ_by_seed(name):
    crop = augmentation.CROPS[name]
    one, two = (crop(_jpeg(), tf.constant([0, s]), image_size=16).numpy() for s in (1, 2))
    assert np.abs(one - two).max() > 5


def test_squash_keeps_the_corners():
    picture = augmentation.squash(_jpeg(), image_size=30).numpy()
    np.testing.assert_allclose(picture[0, 0, :2], [0, 0], atol=10)
    np.testing.assert_allclose(picture[-1, -1, :2], [255, 255], atol=10)


def test_central_crop_takes_the_middle_square():
    picture = augmentation.central_crop(_jpeg(60, 90), image_size=60).numpy()
    # Columns 15 to 74 of 90.
    np.testing.assert_allclose(picture[30, 0, 1], 255 * 15 / 89, atol=4)
    np.testing.assert_allclose(picture[30, -1, 1], 255 * 74 / 89, atol=4)
    np.testing.assert_allclose(picture[0, 30, 0], 0, atol=4)


def test_fixed_crop_stays_inside_the_middle_square():
    for number in range(20):
        picture = augmentation.fixed_crop(
            _jpeg(60, 90), tf.constant([0, number]), image_size=48, resize_to=60
        ).numpy()
        # A crop of 48 of the square's 60 pixels, not resized.
        top, left = picture[0, 24, 0] / 255 * 59, picture[24, 0, 1] / 255 * 89
        assert -2 <= top <= 14
        assert 13 <= left <= 29


@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
def test_reduced_decoding_gives_the_same_picture(divisor):
    encoded = _jpeg(320, 320)
    small = augmentation.squash(encoded, image_size=320 // divisor).numpy()
    whole = tf.image.resize(
        tf.io.decode_jpeg(encoded, channels=3), small.shape[:2], method="area"
    ).numpy()
    # The two round colours at different sizes.
    assert np.abs(small - whole).max() < 4


@pytest.mark.parametrize(("height", "width"), [(96, 150), (96, 64), (400, 90)])
def test_shrinking_leaves_no_pixel_out(height, width):
    """Noise shrinks towards its mean as area averaging has it, whichever way it is resized."""
    noise = np.random.RandomState(0).randint(0, 256, (height, width, 1)).repeat(3, axis=2)
    encoded = io.BytesIO()
    Image.fromarray(noise.astype(np.uint8)).save(encoded, "JPEG", quality=95, subsampling=0)
    pixels = tf.io.decode_jpeg(encoded.getvalue(), channels=3)
    got = augmentation.squash(tf.constant(encoded.getvalue()), image_size=60).numpy()
    area = tf.image.resize(pixels, [60, 60], method="area").numpy()
    nearest = tf.image.resize(pixels, [60, 60], method="nearest").numpy().astype(np.float32)
    assert got.std() < 1.2 * area.std() < nearest.std()
    assert np.corrcoef(got.ravel(), area.ravel())[0, 1] > 0.9


def test_tiny_and_grey_images():
    encoded = io.BytesIO()
    Image.new("L", (1, 1), 77).save(encoded, "JPEG")
    for crop in augmentation.CROPS.values():
        picture = crop(tf.constant(encoded.getvalue()), SEED, image_size=8).numpy()
        np.testing.assert_allclose(picture, 77, atol=2)


@pytest.mark.parametrize("name", augmentation.DISTORTIONS)
def test_distortions_are_the_same_eagerly_and_in_tf_data(name):
    def distort(image, seed):
        return augmentation.distort(image, seed, ((name, 0.4, 1.0),))

    eager = distort(_image(), SEED).numpy()
    assert eager.shape == (24, 24, 3)
    assert 0 <= eager.min() <= eager.max() <= 255
    assert np.abs(eager - _image()).max() > 1
    np.testing.assert_allclose(eager, _in_tf_data(distort, _image(), SEED), atol=1e-3)


def test_distortions_by_hand():
    image = _image()
    np.testing.assert_array_equal(augmentation.flip(image, SEED, 1.0)[:, ::-1], image)
    shade = augmentation.DISTORTIONS["grey"](image, SEED, 1.0).numpy()
    np.testing.assert_allclose(shade, shade[..., :1] + np.zeros(3), atol=1e-3)
    np.testing.assert_allclose(augmentation.rotate(image, SEED, 0.0), image, atol=1e-3)
    black = augmentation.cutout(tf.ones([20, 20, 3]), tf.constant([0, 0]), 0.5).numpy()
    assert 25 <= (black[..., 0] == 0).sum() <= 100
    factor = (augmentation.DISTORTIONS["brightness"](image, SEED, 0.3) / image).numpy()
    np.testing.assert_allclose(factor, factor[0, 0, 0], rtol=1e-5)
    assert 0.7 <= factor[0, 0, 0] <= 1.3


def test_probability():
    image = _image()
    chosen = 0
    for number in range(100):
        out = augmentation.distort(image, tf.constant([1, number]), (("flip", 1.0, 0.3),))
        chosen += int(np.abs(out - image).max() > 0)
    assert 15 <= chosen <= 45
    np.testing.assert_array_equal(augmentation.distort(image, SEED, ()), image)
    with pytest.raises(InputError, match="Did you mean 'flip'"):
        augmentation.distort(image, SEED, (("flp", 1.0, 1.0),))


def test_both_stacks_give_the_numbers_of_tensorflow_addons(repository):
    golden = np.load(repository / "tests" / "golden" / "tensorflow_addons_image.npz")
    image = tf.constant(np.random.RandomState(0).uniform(0, 255, (9, 12, 3)).astype(np.float32))
    got = {
        "rotate": addons.rotate(image, tf.constant(0.3)),
        "blur": addons.blur(image, 1.3),
        "sharpness": addons.sharpness(image, tf.constant(1.7)),
        "smooth": addons.sharpness(image, tf.constant(0.2)),
        "cutout": addons.cutout(image, tf.constant([3, 10]), 6),
        "adjust_hsv": addons.adjust_hsv(
            image, tf.constant(0.4), tf.constant(1.2), tf.constant(0.9)
        ),
    }
    assert set(golden) == set(got)
    for name, value in got.items():
        np.testing.assert_allclose(value, golden[name], atol=2e-4, err_msg=name)


def test_optimizers_that_do_not_exist_are_refused():
    if addons.tensorflow_addons() is not None:
        assert type(addons.optimizer("sgdw", 0.1, weight_decay=0.0)).__name__ == "SGDW"
    else:
        with pytest.raises(InputError, match="RectifiedAdam"):
            addons.optimizer("radam", 0.1)
    assert "LAMB" in type(addons.optimizer("lamb", 0.1)).__name__.upper()
    with pytest.raises(InputError, match="must be one of"):
        addons.optimizer("sgd", 0.1)
