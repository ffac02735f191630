"""Extraction as the original DELF and DELG code does it: what the benchmark compares with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.extraction.extractor import Extractor
from delf_tf.features.blocks import ImageFeatures
from delf_tf.features.formats import delf_format
from delf_tf.models.retrieval_model import RetrievalModel
from delf_tf.types import LocalFeatures


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
