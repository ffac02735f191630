"""Crops that decode only what they keep, and distortions of pixels, for training.

Everything is a pure function of its arguments: randomness comes from a `seed` (int32 [2]), so that
the same seed gives the same picture eagerly, inside tf.data and after a restart.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from delf_tf.checks import require, require_choice
from delf_tf.datasets import addons

# Krizhevsky et al. (NIPS 2012, section 4.1): eigenvalues and eigenvectors (columns) of the RGB
# covariance of ImageNet's pixels in 0..1.
_PCA_STD = (0.2175, 0.0188, 0.0045)
_PCA_AXES = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


def random_resized_crop(
    encoded: tf.Tensor,
    seed: tf.Tensor,
    *,
    image_size: int,
    min_area: float = 0.08,
    max_area: float = 1.0,
    min_aspect: float = 0.75,
    max_aspect: float = 4 / 3,
) -> tf.Tensor:
    """Cuts a random part out of a JPEG and resizes it to a square.

    Args:
      encoded: scalar string, JPEG content.
      seed: int32 [2].
      image_size: side of the result, pixels.
      min_area: smallest part of the image's area, in (0, 1].
      max_area: largest.
      min_aspect: least width / height of the part.
      max_aspect: greatest.

    Returns:
      float32 [image_size, image_size, 3], RGB, 0..255.
    """
    shape = tf.io.extract_jpeg_shape(encoded)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.zeros([1, 0, 4]),
        seed=seed,
        min_object_covered=0.1,
        aspect_ratio_range=(min_aspect, max_aspect),
        area_range=(min_area, max_area),
        max_attempts=20,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], size[:2]], axis=0)
    return _decode_window(encoded, window, image_size)


def fixed_crop(
    encoded: tf.Tensor, seed: tf.Tensor, *, image_size: int, resize_to: int = 0
) -> tf.Tensor:
    """Cuts the central square, scales its side to `resize_to`, then cuts a random square out.

    DELF (ICCV 2017, section 4.2): 250 then 224 for descriptors; 900 then 720 for attention.

    Args:
      encoded: scalar string, JPEG content.
      seed: int32 [2].
      image_size: side of the result, pixels.
      resize_to: at least `image_size`; 0 for image_size · 250 / 224.

    Returns:
      float32 [image_size, image_size, 3], RGB, 0..255.
    """
    resize_to = resize_to or round(image_size * 250 / 224)
    require(
        resize_to >= image_size,
        "resize_to must be at least image_size.",
        resize_to=resize_to,
        image_size=image_size,
    )
    free = tf.random.stateless_uniform([2], seed) * (1 - image_size / resize_to)
    return _decode_window(encoded, _square(encoded, image_size / resize_to, free), image_size)


def central_crop(
    encoded: tf.Tensor, seed: tf.Tensor | None = None, *, image_size: int, fraction: float = 1.0
) -> tf.Tensor:
    """Cuts the central square, `fraction` of the shorter side wide, for validation.

    Args:
      encoded: scalar string, JPEG content.
      seed: not used; all crops have it.
      image_size: side of the result, pixels.
      fraction: in (0, 1].

    Returns:
      float32 [image_size, image_size, 3], RGB, 0..255.
    """
    del seed
    free = tf.fill([2], (1 - fraction) / 2)
    return _decode_window(encoded, _square(encoded, fraction, free), image_size)


def squash(encoded: tf.Tensor, seed: tf.Tensor | None = None, *, image_size: int) -> tf.Tensor:
    """Resizes the whole image to a square, as the original's trainer does for validation."""
    del seed
    shape = tf.io.extract_jpeg_shape(encoded)
    window = tf.concat([tf.zeros([2], tf.int32), shape[:2]], axis=0)
    return _decode_window(encoded, window, image_size)


CROPS: dict[str, Callable[..., tf.Tensor]] = {
    "random_resized": random_resized_crop,
    "fixed": fixed_crop,
    "central": central_crop,
    "squash": squash,
}


def flip(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Mirrors left and right, always; `strength` has no meaning."""
    del seed, strength
    return tf.reverse(image, [1])


def brightness(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Multiplies by a factor in 1 ± strength."""
    return image * _around_one(seed, strength)


def contrast(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Scales differences from the mean grey by a factor in 1 ± strength."""
    mean = tf.reduce_mean(_grey(image))
    return mean + (image - mean) * _around_one(seed, strength)


def saturation(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Scales differences from each pixel's grey by a factor in 1 ± strength."""
    grey = _grey(image)
    return grey + (image - grey) * _around_one(seed, strength)


def grey(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Takes out the share `strength` of the colour."""
    del seed
    return image + (_grey(image) - image) * strength


def pca_lighting(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Shifts along the axes of ImageNet's colours by normal amounts of deviation `strength`."""
    amounts = tf.random.stateless_normal([3], seed, stddev=strength) * tf.constant(_PCA_STD)
    return image + 255.0 * tf.linalg.matvec(tf.constant(_PCA_AXES), amounts)


def rotate(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Rotates by an angle in ± strength degrees."""
    return addons.rotate(image, _uniform(seed, strength * math.pi / 180))


def blur(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Blends with its Gaussian blur of `strength` pixels, by a share in 0..1."""
    share = tf.random.stateless_uniform([], seed)
    return image + (addons.blur(image, strength) - image) * share


def sharpness(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Smooths or sharpens by a factor in 1 ± strength, at least 0."""
    return addons.sharpness(image, tf.maximum(_around_one(seed, strength), 0.0))


def cutout(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Blackens a square whose side is the share `strength` of the image's, anywhere."""
    side = 2 * max(1, round(strength * image.shape[0] / 2))
    limits = tf.shape(image)[:2]
    centre = tf.cast(tf.random.stateless_uniform([2], seed) * tf.cast(limits, tf.float32), tf.int32)
    return addons.cutout(image, tf.minimum(centre, limits - 1), side)


def hsv(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
    """Turns the hue by ± strength radians, scales saturation and value by 1 ± strength, in YIQ."""
    draws = tf.random.stateless_uniform([3], seed, -strength, strength)
    return addons.adjust_hsv(image, draws[0], 1 + draws[1], 1 + draws[2])


DISTORTIONS: dict[str, Callable[[tf.Tensor, tf.Tensor, float], tf.Tensor]] = {
    "flip": flip,
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "grey": grey,
    "pca_lighting": pca_lighting,
    "rotate": rotate,
    "blur": blur,
    "sharpness": sharpness,
    "cutout": cutout,
    "hsv": hsv,
}


def distort(
    image: tf.Tensor, seed: tf.Tensor, distortions: tuple[tuple[str, float, float], ...]
) -> tf.Tensor:
    """Applies distortions in order, each by chance.

    Args:
      image: float32 [H, W, 3], 0..255, static shape.
      seed: int32 [2].
      distortions: (name in `DISTORTIONS`, strength, probability).

    Returns:
      float32 [H, W, 3], clipped to 0..255 if there are distortions.
    """
    for number, (name, strength, probability) in enumerate(distortions):
        require_choice("distortion", name, DISTORTIONS)
        require(0 <= probability <= 1, "probability must lie in 0..1.", probability=probability)
        own = fold_in(seed, number)
        function = DISTORTIONS[name]
        if probability == 1:
            image = function(image, own, strength)
        else:
            chosen = tf.random.stateless_uniform([], fold_in(own, 1)) < probability
            image = tf.cond(
                chosen,
                lambda image=image, own=own, function=function, strength=strength: function(
                    image, own, strength
                ),
                lambda image=image: image,
            )
    return tf.clip_by_value(image, 0.0, 255.0) if distortions else image


def fold_in(seed: tf.Tensor, number: tf.Tensor | int) -> tf.Tensor:
    """Returns a new int32 [2] seed that depends on `seed` and `number`."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def _decode_window(encoded: tf.Tensor, window: tf.Tensor, image_size: int) -> tf.Tensor:
    """Decodes a window (y, x, height, width) and resizes it to a square."""
    # The decoder halves sizes for nearly nothing; what it leaves is at least the size asked for.
    halvings = tf.cast(tf.reduce_min(window[2:]) // image_size >= [2, 4, 8], tf.int32)
    pixels = tf.switch_case(
        tf.reduce_sum(halvings),
        [lambda ratio=ratio: _decode_reduced(encoded, window, ratio) for ratio in (1, 2, 4, 8)],
    )
    # Area averaging does not alias when it shrinks, but repeats pixels when it enlarges.
    resized = tf.cond(
        tf.reduce_min(tf.shape(pixels)[:2]) >= image_size,
        lambda: tf.image.resize(pixels, [image_size, image_size], method="area"),
        lambda: tf.image.resize(pixels, [image_size, image_size]),
    )
    return tf.ensure_shape(resized, [image_size, image_size, 3])


def _decode_reduced(encoded: tf.Tensor, window: tf.Tensor, ratio: int) -> tf.Tensor:
    return tf.io.decode_and_crop_jpeg(encoded, window // ratio, channels=3, ratio=ratio)


def _square(encoded: tf.Tensor, fraction: float, free: tf.Tensor) -> tf.Tensor:
    """Returns (y, x, height, width) of a square in the central square.

    Args:
      encoded: JPEG content.
      fraction: of the central square's side.
      free: float32 [2], offset (y, x) in that side's units.
    """
    shape = tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.float32)
    full = tf.reduce_min(shape)
    begin = tf.cast((shape - full) / 2 + free * full, tf.int32)
    side = tf.maximum(tf.cast(tf.round(full * fraction), tf.int32), 1)
    return tf.concat([begin, [side, side]], axis=0)


def _grey(image: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(image * tf.constant([0.299, 0.587, 0.114]), axis=-1, keepdims=True)


def _uniform(seed: tf.Tensor, limit: float) -> tf.Tensor:
    return tf.random.stateless_uniform([], seed, -limit, limit)


def _around_one(seed: tf.Tensor, limit: float) -> tf.Tensor:
    return 1.0 + _uniform(seed, limit)
