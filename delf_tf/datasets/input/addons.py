"""tensorflow-addons behind one module, with plain TensorFlow where it is not installed.

tensorflow-addons ends at TensorFlow 2.15 and Python 3.11 (stack A). There its own operations run;
elsewhere (stack B) the same formulas in plain TensorFlow, so that an augmentation has the same
distribution on both. Random numbers are never drawn here: callers draw them statelessly.

Images are float32 [H, W, 3] or [B, H, W, 3] in 0..255, and results are of the same shape.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import tensorflow as tf

from delf_tf.checks import invalid, require_choice

OPTIMIZERS = {"lamb": "LAMB", "sgdw": "SGDW", "radam": "RectifiedAdam"}

# RGB to YIQ (luma, then the two axes of colour), and back.
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


@functools.lru_cache(maxsize=1)
def tensorflow_addons() -> Any:
    """Returns the module tensorflow_addons, or None where it does not exist or cannot work."""
    with warnings.catch_warnings():
        # It announces its end of life at each import.
        warnings.simplefilter("ignore")
        try:
            import tensorflow_addons  # noqa: PLC0415
        except (ImportError, AttributeError):
            # Beside TensorFlow 2.16 or newer it installs, but does not import.
            return None
    tensorflow_addons.options.disable_custom_kernel()
    return tensorflow_addons


def rotate(image: tf.Tensor, angle: tf.Tensor) -> tf.Tensor:
    """Rotates about the centre, counter-clockwise; corners that come from outside are black.

    Args:
      image: see the module.
      angle: scalar, radians.
    """
    addons = tensorflow_addons()
    if addons is not None:
        return addons.image.rotate(image, angle, interpolation="bilinear")
    images, batched = _batched(image)
    shape = tf.shape(images)
    height, width = tf.cast(shape[1] - 1, tf.float32), tf.cast(shape[2] - 1, tf.float32)
    cos, sin = tf.cos(angle), tf.sin(angle)
    x_shift = (width - (cos * width - sin * height)) / 2
    y_shift = (height - (sin * width + cos * height)) / 2
    transform = tf.stack([cos, -sin, x_shift, sin, cos, y_shift, 0.0, 0.0])
    rotated = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transform[tf.newaxis],
        output_shape=shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    return _like(rotated, image, batched)


def blur(image: tf.Tensor, sigma: float, radius: int = 3) -> tf.Tensor:
    """Gaussian blur with reflected borders.

    Args:
      image: see the module; its sides exceed `radius`.
      sigma: pixels, > 0; a Python number, for tensorflow-addons takes no tensor.
      radius: the filter has 2 radius + 1 taps a side.
    """
    addons = tensorflow_addons()
    if addons is not None:
        return addons.image.gaussian_filter2d(image, 2 * radius + 1, sigma, "REFLECT")
    images, batched = _batched(image)
    taps = tf.range(-radius, radius + 1, dtype=tf.float32)
    weights = tf.nn.softmax(-tf.square(taps) / (2 * sigma**2))
    padded = tf.pad(images, [[0, 0], [radius] * 2, [radius] * 2, [0, 0]], "REFLECT")
    kernel = weights[:, tf.newaxis] * weights[tf.newaxis]
    return _like(_depthwise(padded, kernel), image, batched)


def sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with a smoothed image: 0 gives the smoothed one, 1 the image, more is sharper.

    Args:
      image: see the module; the result is rounded and kept in 0..255.
      factor: scalar, at least 0.
    """
    image = tf.clip_by_value(image, 0.0, 255.0)
    addons = tensorflow_addons()
    if addons is not None:
        return tf.ensure_shape(addons.image.sharpness(image, factor), image.shape)
    images, batched = _batched(image)
    kernel = tf.constant([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]) / 13
    smooth = _depthwise(images, kernel)
    inner = tf.pad(tf.ones_like(smooth), [[0, 0], [1, 1], [1, 1], [0, 0]])
    smooth = tf.where(inner > 0, tf.pad(smooth, [[0, 0], [1, 1], [1, 1], [0, 0]]), images)
    blended = smooth + (images - smooth) * tf.cast(factor, tf.float32)
    return _like(tf.round(tf.clip_by_value(blended, 0.0, 255.0)), image, batched)


def cutout(image: tf.Tensor, centre: tf.Tensor, side: int) -> tf.Tensor:
    """Blackens a square.

    Args:
      image: [H, W, 3].
      centre: int32 [2], (y, x); what of the square lies outside the image is ignored.
      side: pixels, even.
    """
    addons = tensorflow_addons()
    if addons is not None:
        return addons.image.cutout(image[tf.newaxis], side, centre)[0]
    rows, columns = tf.range(tf.shape(image)[0]), tf.range(tf.shape(image)[1])
    in_rows = (rows >= centre[0] - side // 2) & (rows < centre[0] + side // 2)
    in_columns = (columns >= centre[1] - side // 2) & (columns < centre[1] + side // 2)
    inside = in_rows[:, tf.newaxis, tf.newaxis] & in_columns[tf.newaxis, :, tf.newaxis]
    return tf.where(inside, tf.zeros_like(image), image)


def adjust_hsv(
    image: tf.Tensor, hue: tf.Tensor, saturation: tf.Tensor, value: tf.Tensor
) -> tf.Tensor:
    """Turns the hue and scales saturation and value, in YIQ colours.

    Args:
      image: see the module; the result may leave 0..255.
      hue: scalar, radians.
      saturation: scalar factor of the colour axes.
      value: scalar factor of all axes.
    """
    addons = tensorflow_addons()
    if addons is not None:
        return addons.image.adjust_hsv_in_yiq(image, hue, saturation, value)
    to_yiq = tf.constant(_RGB_TO_YIQ)
    cos, sin = saturation * value * tf.cos(hue), saturation * value * tf.sin(hue)
    zero = tf.zeros_like(cos)
    turn = tf.stack(
        [
            tf.stack([zero + value, zero, zero]),
            tf.stack([zero, cos, -sin]),
            tf.stack([zero, sin, cos]),
        ]
    )
    matrix = tf.linalg.inv(to_yiq) @ turn @ to_yiq
    return tf.tensordot(image, matrix, [[-1], [1]])


def optimizer(name: str, learning_rate: float, **options: Any) -> Any:
    """Returns tensorflow-addons' optimizer, or Keras 3's own where that is all there is.

    The trainer does not need it: training.optimizers has the same rules, which also work on several
    replicas and in checkpoints; this is what they are tested against.

    Args:
      name: "lamb", "sgdw" or "radam".
      learning_rate: constant.
      **options: of the class.

    Raises:
      InputError: this stack has no such optimizer.
    """
    require_choice("optimizer", name, OPTIMIZERS)
    addons = tensorflow_addons()
    if addons is not None:
        return getattr(addons.optimizers, OPTIMIZERS[name])(learning_rate=learning_rate, **options)
    if name == "lamb" and hasattr(tf.keras.optimizers, "Lamb"):
        return tf.keras.optimizers.Lamb(learning_rate=learning_rate, **options)
    raise invalid(
        f"{OPTIMIZERS[name]} of tensorflow-addons must be installed for this.",
        hint="It needs Python 3.11 or older with TensorFlow 2.15; training.optimizers has the same "
        "rule on every stack.",
        tensorflow=tf.__version__,
    )


def _batched(image: tf.Tensor) -> tuple[tf.Tensor, bool]:
    return (image, True) if image.shape.rank == 4 else (image[tf.newaxis], False)


def _like(images: tf.Tensor, image: tf.Tensor, batched: bool) -> tf.Tensor:
    return tf.ensure_shape(images if batched else images[0], image.shape)


def _depthwise(images: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    filters = tf.tile(kernel[:, :, tf.newaxis, tf.newaxis], [1, 1, 3, 1])
    return tf.nn.depthwise_conv2d(images, filters, [1, 1, 1, 1], "VALID")
