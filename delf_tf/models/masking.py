"""Masks for batches of images of different sizes: what lies outside an image stays zero.

A network that pads its maps with zeros gives the same inside a larger map, as long as everything
outside the image is zero again after each layer, and means are taken inside. Layers ask here for
the area that counts; outside of `valid_area` all of it does.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import tensorflow as tf


class ValidArea(NamedTuple):
    """The images of a padded batch.

    Attributes:
      sizes: int32 [B, 2], (height, width) of each image, which lies in the upper left corner.
      padded: (height, width) of the batch, multiples of every stride of the network.
    """

    sizes: tf.Tensor
    padded: tuple[int, int]


_area: contextvars.ContextVar[ValidArea | None] = contextvars.ContextVar("area", default=None)


@contextlib.contextmanager
def valid_area(sizes: tf.Tensor, padded: tuple[int, int]) -> Iterator[None]:
    """Masks all layers that are called within; see ValidArea for the arguments."""
    token = _area.set(ValidArea(sizes, padded))
    try:
        yield
    finally:
        _area.reset(token)


def masked(x: tf.Tensor) -> tf.Tensor:
    """Returns the map [B, h, w, C] with zeros outside the images."""
    mask = _mask(x)
    return x if mask is None else x * tf.cast(mask, x.dtype)


def spatial_mean(x: tf.Tensor, keepdims: bool = False) -> tf.Tensor:
    """Returns the mean over the cells of each image of a map [B, h, w, C]."""
    mask = _mask(x)
    if mask is None:
        return tf.reduce_mean(x, axis=[1, 2], keepdims=keepdims)
    mask = tf.cast(mask, x.dtype)
    total = tf.reduce_sum(x * mask, axis=[1, 2], keepdims=keepdims)
    return total / tf.reduce_sum(mask, axis=[1, 2], keepdims=keepdims)


def spatial_max(x: tf.Tensor) -> tf.Tensor:
    """Returns the maximum over the cells of each image of a map [B, h, w, C]."""
    mask = _mask(x)
    return tf.reduce_max(x if mask is None else tf.where(mask, x, x.dtype.min), axis=[1, 2])


def cells(size: tf.Tensor, stride: int) -> tf.Tensor:
    """Returns how many cells of a map with this stride `size` pixels have: each layer rounds up."""
    return (size + stride - 1) // stride


def _mask(x: tf.Tensor) -> tf.Tensor | None:
    """Returns bool [B, h, w, 1], or None where all counts."""
    area = _area.get()
    if area is None:
        return None
    inside = [
        tf.range(x.shape[axis + 1])[tf.newaxis]
        < cells(area.sizes[:, axis : axis + 1], area.padded[axis] // x.shape[axis + 1])
        for axis in (0, 1)
    ]
    return (inside[0][:, :, tf.newaxis] & inside[1][:, tf.newaxis])[..., tf.newaxis]
