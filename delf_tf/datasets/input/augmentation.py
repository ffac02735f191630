"""Crops and distortions of training images; a crop decodes only what it keeps.

Everything is a pure function of its arguments: randomness comes from a `seed` (int32 [2]), so that
the same seed gives the same picture eagerly, inside tf.data and after a restart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import tensorflow as tf

from delf_tf.checks import require, require_choice
from delf_tf.datasets.input import addons, colour


def random_resized_crop(
    encoded: tf.Tensor,
    seed: tf.Tensor,
    *,
    image_size: int,
    min_area: float = 0.08,
) -> tf.Tensor:
    """Cuts a random part out of a JPEG, 3:4 to 4:3 in shape, and resizes it to a square.

    Args:
      encoded: scalar string, JPEG content.
      seed: int32 [2].
      image_size: side of the result, pixels.
      min_area: smallest part of the image's area, in (0, 1].

    Returns:
      float32 [image_size, image_size, 3], RGB, 0..255.
    """
    shape = tf.io.extract_jpeg_shape(encoded)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.zeros([1, 0, 4]),
        seed=seed,
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(min_area, 1.0),
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
    encoded: tf.Tensor, seed: tf.Tensor | None = None, *, image_size: int
) -> tf.Tensor:
    """Cuts the central square and resizes it, for validation; `seed` is of no effect."""
    del seed
    return _decode_window(encoded, _square(encoded, 1.0, tf.zeros([2])), image_size)


def squash(encoded: tf.Tensor, seed: tf.Tensor | None = None, *, image_size: int) -> tf.Tensor:
    """Resizes the whole image to a square, as the original's trainer does for validation.

    `seed` is of no effect.
    """
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


def _recolour(name: str) -> Callable[[tf.Tensor, tf.Tensor, float], tf.Tensor]:
    def distortion(image: tf.Tensor, seed: tf.Tensor, strength: float) -> tf.Tensor:
        change = colour.CHANGES[name](seed, strength, colour.mean_colour(image))
        changed = colour.apply(image, change, mixes=name in colour.MIXING)
        return tf.ensure_shape(changed, image.shape)

    return distortion


DISTORTIONS: dict[str, Callable[[tf.Tensor, tf.Tensor, float], tf.Tensor]] = {
    "flip": flip,
    **{name: _recolour(name) for name in colour.CHANGES},
    "rotate": rotate,
    "blur": blur,
    "sharpness": sharpness,
    "cutout": cutout,
    "hsv": hsv,
}
# They only move pixels, so what they give needs no clipping.
_MOVES = ("flip",)


def distort(
    image: tf.Tensor, seed: tf.Tensor, distortions: tuple[tuple[str, float, float], ...]
) -> tf.Tensor:
    """Applies distortions in order, each by chance; changes of colour in a row in one pass.

    Args:
      image: float32 [H, W, 3], 0..255, static shape.
      seed: int32 [2].
      distortions: (name in `DISTORTIONS`, strength, probability).

    Returns:
      float32 [H, W, 3], clipped to 0..255 if distortions may leave it.
    """
    for name, _, probability in distortions:
        require_choice("distortion", name, DISTORTIONS)
        require(0 <= probability <= 1, "probability must lie in 0..1.", probability=probability)
    numbered = list(enumerate(distortions))
    for in_colour, run in itertools.groupby(numbered, lambda one: one[1][0] in colour.CHANGES):
        if in_colour:
            image = _recolour_by_chance(image, seed, list(run))
        else:
            for number, one in run:
                image = _distort_by_chance(image, fold_in(seed, number), *one)
    if all(name in _MOVES for name, _, _ in distortions):
        return image
    return tf.clip_by_value(image, 0.0, 255.0)


def _distort_by_chance(
    image: tf.Tensor, seed: tf.Tensor, name: str, strength: float, probability: float
) -> tf.Tensor:
    if probability == 1:
        return DISTORTIONS[name](image, seed, strength)
    return tf.cond(
        _chosen(seed, probability),
        lambda: DISTORTIONS[name](image, seed, strength),
        lambda: image,
    )


def _recolour_by_chance(
    image: tf.Tensor, seed: tf.Tensor, run: list[tuple[int, tuple[str, float, float]]]
) -> tf.Tensor:
    mean = colour.mean_colour(image)
    whole = nothing = (tf.eye(3), tf.zeros([3]))
    for number, (name, strength, probability) in run:
        own = fold_in(seed, number)
        change = colour.CHANGES[name](own, strength, mean)
        if probability < 1:
            chosen = _chosen(own, probability)
            change = tuple(tf.where(chosen, one, two) for one, two in zip(change, nothing))
        mean = colour.mean_after(mean, change)
        whole = colour.compose(whole, change)
    mixes = any(name in colour.MIXING for _, (name, _, _) in run)
    return tf.ensure_shape(colour.apply(image, whole, mixes=mixes), image.shape)


def _chosen(seed: tf.Tensor, probability: float) -> tf.Tensor:
    return tf.random.stateless_uniform([], fold_in(seed, 1)) < probability


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
    size = tf.shape(pixels)[:2]
    # Up to a factor of two, bilinear weights reach every pixel, at a third of the cost. Beyond it
    # they leave pixels out; area averaging does not, but repeats pixels where it enlarges.
    skips = (tf.reduce_max(size) > 2 * image_size) & (tf.reduce_min(size) >= image_size)
    resized = tf.cond(
        skips,
        lambda: tf.image.resize(pixels, [image_size, image_size], method="area"),
        # From float32, for which TensorFlow's resizing is vectorised.
        lambda: tf.image.resize(tf.cast(pixels, tf.float32), [image_size, image_size]),
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


def _uniform(seed: tf.Tensor, limit: float) -> tf.Tensor:
    return tf.random.stateless_uniform([], seed, -limit, limit)


def _around_one(seed: tf.Tensor, limit: float) -> tf.Tensor:
    return 1.0 + _uniform(seed, limit)
