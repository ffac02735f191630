"""Random colour changes as affine maps of RGB, so that several of them cost one pass.

A change is a pair (matrix float32 [3, 3], offset float32 [3]): rgb · matrix + offset. Each function
makes one from a `seed` (int32 [2]), a `strength` and the picture's mean RGB before the change.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

Change = tuple[tf.Tensor, tf.Tensor]

# Shares of red, green and blue in brightness (ITU-R BT.601).
_GREY = (0.299, 0.587, 0.114)

# Krizhevsky et al. (NIPS 2012, section 4.1): eigenvalues and eigenvectors (columns) of the RGB
# covariance of ImageNet's pixels in 0..1.
_PCA_STD = (0.2175, 0.0188, 0.0045)
_PCA_AXES = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


def brightness(seed: tf.Tensor, strength: float, mean: tf.Tensor) -> Change:
    """Multiplies by a factor in 1 ± strength."""
    del mean
    return _around_one(seed, strength) * tf.eye(3), tf.zeros([3])


def contrast(seed: tf.Tensor, strength: float, mean: tf.Tensor) -> Change:
    """Scales differences from the mean grey by a factor in 1 ± strength."""
    factor = _around_one(seed, strength)
    mean_grey = tf.reduce_sum(mean * tf.constant(_GREY))
    return factor * tf.eye(3), tf.fill([3], (1.0 - factor) * mean_grey)


def saturation(seed: tf.Tensor, strength: float, mean: tf.Tensor) -> Change:
    """Scales differences from each pixel's grey by a factor in 1 ± strength."""
    del mean
    return _towards_grey(1.0 - _around_one(seed, strength)), tf.zeros([3])


def grey(seed: tf.Tensor, strength: float, mean: tf.Tensor) -> Change:
    """Takes out the share `strength` of the colour; nothing is random."""
    del seed, mean
    return _towards_grey(tf.constant(strength, tf.float32)), tf.zeros([3])


def pca_lighting(seed: tf.Tensor, strength: float, mean: tf.Tensor) -> Change:
    """Shifts along the axes of ImageNet's colours by normal amounts of deviation `strength`."""
    del mean
    amounts = tf.random.stateless_normal([3], seed, stddev=strength) * tf.constant(_PCA_STD)
    return tf.eye(3), 255.0 * tf.linalg.matvec(tf.constant(_PCA_AXES), amounts)


CHANGES: dict[str, Callable[[tf.Tensor, float, tf.Tensor], Change]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "grey": grey,
    "pca_lighting": pca_lighting,
}
# Whose matrices are not diagonal.
MIXING = ("saturation", "grey")


def compose(first: Change, second: Change) -> Change:
    """Returns the change that does `first`, then `second`."""
    matrix = tf.matmul(first[0], second[0])
    return matrix, mean_after(first[1], second)


def mean_after(mean: tf.Tensor, change: Change) -> tf.Tensor:
    """Returns the mean RGB [3] of a picture after a change, from its mean before."""
    return tf.linalg.matvec(change[0], mean, transpose_a=True) + change[1]


def mean_colour(image: tf.Tensor) -> tf.Tensor:
    """Returns the mean RGB [3] of an image [H, W, 3]."""
    # Over rows first: TensorFlow is several times slower at reducing to three numbers at once.
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    row = tf.reduce_mean(tf.reshape(image, [height, width * 3]), axis=0)
    return tf.reduce_mean(tf.reshape(row, [width, 3]), axis=0)


def apply(image: tf.Tensor, change: Change, *, mixes: bool = True) -> tf.Tensor:
    """Returns a float32 image [H, W, 3] changed; values may leave 0..255.

    Args:
      image: pixels.
      change: what to do.
      mixes: False if the matrix is known to be diagonal: less than half the work.
    """
    matrix, offset = change
    if mixes:
        filters = matrix[tf.newaxis, tf.newaxis]
        mixed = tf.nn.conv2d(image[tf.newaxis], filters, strides=1, padding="VALID")
        return tf.nn.bias_add(mixed, offset)[0]
    # By whole rows, for TensorFlow is slow at broadcasting three numbers to every pixel.
    shape = tf.shape(image)
    rows = tf.reshape(image, [shape[0], shape[1] * 3])
    scales, offsets = tf.tile(tf.linalg.diag_part(matrix), shape[1:2]), tf.tile(offset, shape[1:2])
    return tf.reshape(rows * scales + offsets, shape)


def _towards_grey(share: tf.Tensor) -> tf.Tensor:
    to_grey = tf.tile(tf.constant(_GREY)[:, tf.newaxis], [1, 3])
    return (1.0 - share) * tf.eye(3) + share * to_grey


def _around_one(seed: tf.Tensor, limit: float) -> tf.Tensor:
    return 1.0 + tf.random.stateless_uniform([], seed, -limit, limit)
