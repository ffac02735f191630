"""The input pipeline of the original DELF and DELG trainer: what the benchmark compares with."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from delf_tf.datasets.records import schema

_SHUFFLE_BUFFER = 100


def dataset(
    paths: Sequence[str], batch_size: int, image_size: int, num_parallel_calls: int | None = None
) -> tf.data.Dataset:
    """Returns endless batches made the original's way.

    The whole picture is decoded, turned to float32 and normalised; then a random part is cut out
    and resized by area. There is neither flip nor colour. One record after the other is mapped, in
    one thread; unlike the original's, batches are fetched ahead, which trainers do for it.

    Args:
      paths: shards.
      batch_size: images.
      image_size: side of the pictures, pixels; the original's is 321.
      num_parallel_calls: of the map; None as the original has it.

    Returns:
      (images float32 [B, S, S, 3] about -1..1, labels int64 [B]).
    """
    records = tf.data.TFRecordDataset(list(paths)).repeat().shuffle(_SHUFFLE_BUFFER, seed=0)
    images = records.map(
        lambda serialized: _decode(serialized, image_size), num_parallel_calls=num_parallel_calls
    )
    return images.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _decode(serialized: tf.Tensor, image_size: int) -> tuple[tf.Tensor, tf.Tensor]:
    parsed = schema.parse_example(serialized)
    image = tf.io.decode_jpeg(parsed["encoded"], channels=3)
    image = (tf.cast(image, tf.float32) - 128.0) / 128.0
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(image),
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        min_object_covered=0.1,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    crop = tf.ensure_shape(tf.slice(image, begin, size), [None, None, 3])
    resized = tf.image.resize(crop, [image_size, image_size], method="area")
    return tf.ensure_shape(resized, [image_size, image_size, 3]), parsed["label"]
