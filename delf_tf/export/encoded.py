"""Encoded JPEG bytes in, features out, in one graph: what a server needs to serve photographs."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from delf_tf.extraction.extractor import Extractor
from delf_tf.extraction.settings import LOCAL_NAMES, MIN_SIDE_PX

_EXIF_ORIENTATION = 0x0112
# EXIF stands ahead of the picture; a segment has at most 64 KiB, and few come before it.
_HEADER_BYTES = 1 << 18
_LONG = 4


class Limits(NamedTuple):
    """Sizes of images.

    Attributes:
      max_image_size: a longer image is shrunk until its longer side is this, pixels; -1: never.
      min_image_size: an image whose longer side is below this is enlarged to it; -1: never.
      max_image_pixels: an image with more is refused before it is decoded.
      size_multiple: both sides become the nearest multiple of this.
      resize_filter: "bilinear" or "lanczos3", antialiased.
    """

    max_image_size: int = -1
    min_image_size: int = -1
    max_image_pixels: int = 178_956_970
    size_multiple: int = 1
    resize_filter: str = "bilinear"


def encoded_images(extractor: Extractor, limits: Limits) -> Any:
    """Makes the signature that takes encoded photographs.

    Input `image_bytes`: string [B], each a JPEG file; sizes may differ. Outputs, all float32 but
    the first: "num_features" int32 [B]; "locations" [B, N, 2], (y, x) pixels of the upright
    photograph as it was sent, "descriptors" [B, N, D], "scores" and "scales" [B, N]: the rows from
    num_features on are zero; "global_descriptor" [B, D]. What the Extractor does not give is left
    out.

    Args:
      extractor: what is computed.
      limits: what images are resized to first, as the engine does.

    Returns:
      A concrete function.
    """

    def one(data: tf.Tensor) -> dict[str, tf.Tensor]:
        image = decode_upright(data, limits.max_image_pixels)
        resized = resize_to_limit(image, limits)
        outputs = extractor(resized)
        if extractor.use_local_features:
            factor = tf.cast(tf.shape(image)[:2] / tf.shape(resized)[:2], tf.float32)
            outputs["locations"] = (outputs["locations"] + 0.5) * factor - 0.5
            outputs.update(_padded(outputs, extractor.settings.max_num_features))
        return outputs

    def run(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = tf.map_fn(one, image_bytes, fn_output_signature=_signature(extractor))
        if extractor.use_local_features:
            most = tf.reduce_max(tf.concat([outputs["num_features"], [0]], axis=0))
            outputs.update({name: outputs[name][:, :most] for name in LOCAL_NAMES})
        return outputs

    spec = tf.TensorSpec([None], tf.string, name="image_bytes")
    return tf.function(run).get_concrete_function(image_bytes=spec)


def decode_upright(data: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Returns uint8 RGB [H, W, 3] of a JPEG file's bytes, upright by EXIF."""
    shape = tf.io.extract_jpeg_shape(data, tf.int64)
    tf.debugging.Assert(
        shape[0] * shape[1] <= max_pixels,
        [f"An image must have at most {max_pixels} pixels. Received height, width:", shape[:2]],
    )
    # The exact transform, as other decoders have it.
    image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    turn = orientation(data)
    image = _where(turn >= 5, image, lambda image: tf.transpose(image, [1, 0, 2]))
    image = _where(_is_one_of(turn, 3, 4, 7, 8), image, lambda image: tf.reverse(image, [0]))
    image = _where(_is_one_of(turn, 2, 3, 6, 7), image, lambda image: tf.reverse(image, [1]))
    return tf.ensure_shape(image, [None, None, 3])


def orientation(data: tf.Tensor) -> tf.Tensor:
    """Returns EXIF's orientation, int32 1 to 8, of a JPEG file's bytes; 1 if it tells none.

    Exif 2.32, section 4.5 and 4.6: segment APP1, "Exif" and two zeros, a TIFF header, entries of
    twelve bytes each: tag, type, count, value.
    """
    # The zeros behind let every read of a cut file fall on something.
    data = tf.strings.substr(data, 0, _HEADER_BYTES)
    header = tf.cast(tf.io.decode_raw(data + b"\0" * 16, tf.uint8), tf.int32)
    last = tf.size(header) - 1
    pattern = {0: 0xFF, 1: 0xE1, 4: 0x45, 5: 0x78, 6: 0x69, 7: 0x66, 8: 0, 9: 0}
    hits = [tf.equal(header[at : last - 9 + at], byte) for at, byte in pattern.items()]
    found = tf.reshape(tf.where(tf.reduce_all(tf.stack(hits), axis=0)), [-1])
    found = tf.concat([tf.cast(found, tf.int32), [last]], axis=0)
    start = tf.minimum(found[0] + 10, last)
    is_little = tf.equal(header[start], 0x49)

    def number(at: tf.Tensor, num_bytes: int) -> tf.Tensor:
        parts = [
            tf.gather(header, tf.clip_by_value(at + index, 0, last)) for index in range(num_bytes)
        ]
        little, big = (
            sum(part * 256**power for power, part in enumerate(order))
            for order in (parts, parts[::-1])
        )
        return tf.where(is_little, little, big)

    directory = start + tf.clip_by_value(number(start + 4, 4), 0, _HEADER_BYTES)
    entries = directory + 2 + 12 * tf.range(number(directory, 2))
    is_long = tf.equal(number(entries + 2, 2), _LONG)
    values = tf.where(is_long, number(entries + 8, 4), number(entries + 8, 2))
    values = tf.boolean_mask(values, tf.equal(number(entries, 2), _EXIF_ORIENTATION))
    value = tf.concat([values, [1]], axis=0)[0]
    return tf.where((value >= 1) & (value <= 8), value, 1)


def resize_to_limit(image: tf.Tensor, limits: Limits) -> tf.Tensor:
    """Returns a uint8 image resized as extraction.pyramid.resize_to_limit does, to a grey level.

    Raises in the graph: a side that is then below MIN_SIDE_PX.
    """
    size = tf.shape(image)[:2]
    longer = tf.reduce_max(size)
    target = longer
    if limits.min_image_size >= 0:
        target = tf.maximum(target, limits.min_image_size)
    if limits.max_image_size >= 0:
        # A smaller image that must grow, grows to min_image_size even if that is above the limit.
        target = tf.where(longer > limits.max_image_size, limits.max_image_size, target)
    multiples = tf.cast(size, tf.float64) * (target / longer) / limits.size_multiple
    wanted = limits.size_multiple * tf.maximum(tf.cast(tf.round(multiples), tf.int32), 1)
    tf.debugging.assert_greater_equal(
        tf.reduce_min(wanted),
        MIN_SIDE_PX,
        f"An image must have at least {MIN_SIDE_PX} pixels on each side.",
    )

    def resize(image: tf.Tensor) -> tf.Tensor:
        levels = tf.image.resize(image, wanted, method=limits.resize_filter, antialias=True)
        return tf.cast(tf.clip_by_value(tf.floor(levels + 0.5), 0, 255), tf.uint8)

    resized = _where(tf.reduce_any(tf.not_equal(wanted, size)), image, resize)
    return tf.ensure_shape(resized, [None, None, 3])


def _where(condition: tf.Tensor, image: tf.Tensor, change: Any) -> tf.Tensor:
    return tf.cond(condition, lambda: change(image), lambda: image)


def _is_one_of(value: tf.Tensor, *choices: int) -> tf.Tensor:
    return tf.reduce_any(tf.equal(value, tf.constant(choices)))


def _padded(outputs: dict[str, tf.Tensor], num_rows: int) -> dict[str, tf.Tensor]:
    """Returns local features with zeros up to `num_rows`, and how many there were."""
    found = tf.shape(outputs["scores"])[0]
    result = {"num_features": found}
    for name in LOCAL_NAMES:
        value = outputs[name]
        margins = [[0, num_rows - found]] + [[0, 0]] * (value.shape.rank - 1)
        result[name] = tf.ensure_shape(tf.pad(value, margins), [num_rows, *value.shape[1:]])
    return result


def _signature(extractor: Extractor) -> dict[str, tf.TensorSpec]:
    num_rows, shapes = extractor.settings.max_num_features, {}
    if extractor.use_global_features:
        shapes["global_descriptor"] = [extractor.global_dim]
    if extractor.use_local_features:
        shapes.update(locations=[num_rows, 2], descriptors=[num_rows, extractor.local_dim])
        shapes.update(scores=[num_rows], scales=[num_rows])
    result = {name: tf.TensorSpec(shape, tf.float32) for name, shape in shapes.items()}
    if extractor.use_local_features:
        result["num_features"] = tf.TensorSpec([], tf.int32)
    return result
