from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delf_tf.datasets import images
from delf_tf.export import encoded
from delf_tf.extraction import pyramid

MANY = 1 << 30


def _image(height=24, width=40):
    coarse = np.random.RandomState(0).randint(0, 256, (4, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def _with_orientation(value, byte_order="<"):
    exif = Image.Exif()
    exif.endian = byte_order
    exif[0x010F] = "a maker"
    exif[0x0112] = value
    return _jpeg(_image(), exif=exif)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_photographs_come_out_upright(value, byte_order):
    data = _with_orientation(value, byte_order)
    assert int(encoded.orientation(tf.constant(data))) == value
    got = encoded.decode_upright(tf.constant(data), MANY).numpy()
    want = images.read_image_bytes(data)
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).max() <= 1


@pytest.mark.parametrize("value", [0, 9, 300])
def test_senseless_orientations_are_ignored(value):
    assert int(encoded.orientation(tf.constant(_with_orientation(value)))) == 1


def test_no_or_broken_exif():
    data = _with_orientation(6)
    start = data.index(b"Exif\0\0")
    assert int(encoded.orientation(tf.constant(_jpeg(_image())))) == 1
    for rubbish in (b"", b"x", data[: start + 6], data[: start + 12]):
        assert int(encoded.orientation(tf.constant(rubbish))) == 1
    rng = np.random.RandomState(0)
    for _ in range(20):
        damaged = bytearray(data)
        for at in rng.randint(start + 6, start + 60, 4):
            damaged[at] = rng.randint(256)
        assert 1 <= int(encoded.orientation(tf.constant(bytes(damaged)))) <= 8


def test_grey_becomes_colour():
    image = encoded.decode_upright(tf.constant(_jpeg(_image().convert("L"))), MANY)
    assert image.shape == (24, 40, 3)


def test_huge_images_are_refused_before_they_are_decoded():
    data = _jpeg(_image())
    encoded.decode_upright(tf.constant(data), 24 * 40)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most 959 pixels"):
        encoded.decode_upright(tf.constant(data), 24 * 40 - 1)


@pytest.mark.parametrize(
    ("size", "limits"),
    [
        ((60, 90), {"max_side": 45}),
        ((60, 90), {"min_side": 120}),
        ((31, 20), {"max_side": 20}),
        ((60, 90), {"max_side": 90, "min_side": 90}),
        ((60, 90), {"max_side": 70, "multiple": 16, "resize_filter": "lanczos3"}),
        ((60, 96), {"multiple": 32}),
    ],
)
def test_the_limit_is_the_engines(size, limits):
    image = np.asarray(_image(*size))
    names = {"max_side": "max_image_size", "min_side": "min_image_size"}
    names["multiple"] = "size_multiple"
    given = encoded.Limits(**{names.get(name, name): value for name, value in limits.items()})
    got = encoded.resize_to_limit(tf.constant(image), given).numpy()
    want = pyramid.resize_to_limit(image, **limits)
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).max() <= 1


def test_images_that_are_too_small_after_the_limit():
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least 10 pixels"):
        encoded.resize_to_limit(tf.zeros([20, 90, 3], tf.uint8), encoded.Limits(40))
