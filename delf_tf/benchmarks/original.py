"""Extraction and training input as the original code does them, for benchmarks to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from delf_tf.artifacts import StrPath
from delf_tf.datasets.records import schema
from delf_tf.extraction.extractor import Extractor
from delf_tf.features.blocks import ImageFeatures
from delf_tf.features.formats import delf_format
from delf_tf.models.retrieval_model import RetrievalModel
from delf_tf.types import LocalFeatures

_SHUFFLE_BUFFER = 100


class OriginalWay:
    """One scale at a time in float32 as Keras runs it, every stage at every scale.

    Images are decoded when their turn comes and every one is written to a file of its own.
    """

    def __init__(
        self,
        model: RetrievalModel,
        *,
        image_scales: Sequence[float],
        global_scales_ind: Sequence[int] = (),
        use_local_features: bool = False,
        max_num_features: int = 1000,
    ):
        """Makes a graph a scale; arguments as Extractor's."""
        self._scales = [
            Extractor(
                model,
                image_scales=[scale],
                use_local_features=use_local_features,
                max_num_features=max_num_features,
                fold_normalization=False,
            )
            for scale in image_scales
        ]
        self._global_scales = tuple(global_scales_ind) or tuple(range(len(image_scales)))
        self._use_local, self._max_num = use_local_features, max_num_features

    def extract(self, image: np.ndarray) -> ImageFeatures:
        """Returns the features of a uint8 image [H, W, 3]."""
        found = [
            {name: value.numpy() for name, value in scale(image).items()} for scale in self._scales
        ]
        vectors = [found[index]["global_descriptor"] for index in self._global_scales]
        total = np.sum(vectors, axis=0)
        local = self._strongest(found) if self._use_local else None
        return ImageFeatures(total / np.linalg.norm(total), local)

    def write(self, image: np.ndarray, stem: StrPath) -> ImageFeatures:
        """Extracts an image, writes STEM.delg_global and STEM.delg_local, returns its features."""
        features = self.extract(image)
        delf_format.write_datum(Path(f"{stem}.delg_global"), features.global_descriptor)
        if features.local is not None:
            delf_format.write_delf(Path(f"{stem}.delg_local"), features.local)
        return features

    def _strongest(self, found: list[dict[str, Any]]) -> LocalFeatures:
        names = ("locations", "descriptors", "scores", "scales")
        merged = [np.concatenate([scale[name] for scale in found]) for name in names]
        order = np.argsort(-merged[2], kind="stable")[: self._max_num]
        return LocalFeatures(*(values[order] for values in merged))


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
