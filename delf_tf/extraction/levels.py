"""The levels of an image pyramid in TensorFlow; pyramid.py states the conventions."""

from __future__ import annotations

import tensorflow as tf


def scaled_size(size: tf.Tensor, scale: float | tf.Tensor) -> tf.Tensor:
    """Returns int32 [2], (height, width) of the pyramid level `scale` of an image of `size`."""
    scaled = tf.round(tf.cast(size, tf.float32) * tf.cast(scale, tf.float32))
    return tf.maximum(tf.cast(scaled, tf.int32), 1)


def pyramid_level(image: tf.Tensor, scale: float | tf.Tensor) -> tf.Tensor:
    """Returns float32 images [..., H, W, 3] resized by `scale`, bilinear without antialiasing.

    Sizes that are known while a graph is made stay so, which XLA needs.
    """
    if not tf.is_tensor(scale) and scale == 1.0:
        return image
    size = image.shape[-3:-1]
    if size.is_fully_defined() and not tf.is_tensor(scale):
        with tf.init_scope():
            size = scaled_size(tf.constant(size.as_list()), scale).numpy()
    else:
        size = scaled_size(tf.shape(image)[-3:-1], scale)
    return tf.image.resize(image, size, method="bilinear", antialias=False)
