"""The Extractor without TensorFlow: NumPy around a network of any engine."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from delf_tf.extraction import array_selection
from delf_tf.extraction.backends.network import Network
from delf_tf.extraction.pyramid import scaled_size
from delf_tf.extraction.settings import (
    LOCAL_NAMES,
    OFFSET_PERIOD,
    BaseExtractor,
    ExtractionSettings,
    Pass,
    Projection,
)

Arrays = dict[str, np.ndarray]


class ArrayExtractor(BaseExtractor):
    """Called as an Extractor is; the network runs elsewhere, all else here and in float32.

    Attributes:
      network: what runs; the others are BaseExtractor's.
    """

    def __init__(self, network: Network, **settings: Any):
        """Checks the settings against the network.

        Args:
          network: of backends.
          **settings: see ExtractionSettings.

        Raises:
          InputError: an argument out of range, or features that the network does not give.
        """
        self.network = network
        chosen, facts = ExtractionSettings(**settings), network.facts
        chosen.require_outputs(facts)
        self.apply_settings(chosen, facts.global_dim, facts.local_dim)

    def __call__(self, image: np.ndarray) -> Arrays:
        """Extracts one image, uint8 [H, W, 3]; see Extractor.__call__."""
        return self.extract_batches([np.asarray(image)], batch_size=1)[0]

    def extract_batches(self, images: Sequence[np.ndarray], *, batch_size: int) -> list[Arrays]:
        """Extracts images, uint8 [H, W, 3] each, each to what it has alone.

        Args:
          images: of any sizes; the result's order is theirs.
          batch_size: images of one size that the network sees at once.
        """
        found: dict[int, Arrays] = {}
        for rows in equal_rows([image.shape for image in images], batch_size):
            stacked = np.stack([images[row] for row in rows])
            levels = [self._level(stacked, one) for one in self.settings.passes()]
            found.update((row, self._finish(levels, at)) for at, row in enumerate(rows))
        return [found[row] for row in range(len(images))]

    def _level(self, images: np.ndarray, one: Pass) -> Arrays:
        """Returns, of one scale, "global" [B, D] and rows of local features [B, N, ...]."""
        facts = self.network.facts
        size, level_size = images.shape[1:3], scaled_size(images.shape[1:3], one.scale)
        needed = ("global",) * one.use_global + (facts.local_output,) * one.use_local
        outputs = self.network(images, level_size, needed)
        result = {}
        if one.use_global:
            result["global"] = project(outputs["global"], self.global_projection)
        if one.use_local:
            rows = self._template_rows if "superfeatures" in outputs else self._map_rows
            locations, descriptors, scores = rows(outputs, level_size)
            factor = np.asarray(size, np.float32) / np.asarray(level_size, np.float32)
            scale = np.float32(1.0 / one.scale)
            result["locations"] = (locations + np.float32(0.5)) * factor - np.float32(0.5)
            result["descriptors"], result["scores"] = descriptors, scores
            result["scales"] = np.full(scores.shape, scale, np.float32)
        return result

    def _finish(self, levels: Sequence[Arrays], row: int) -> Arrays:
        """Returns the features of one image of a batch."""
        chosen, result = self.settings, {}
        if chosen.use_global_features:
            vectors = [level["global"][row] for level in levels if "global" in level]
            result["global_descriptor"] = l2_normalize(np.sum(vectors, axis=0))
        if chosen.use_local_features:
            cells = {
                name: np.concatenate([level[name][row] for level in levels]) for name in LOCAL_NAMES
            }
            kept = array_selection.select(
                cells["scores"],
                array_selection.receptive_boxes(
                    cells["locations"], cells["scales"], chosen.nms_box_px
                ),
                max_num_features=chosen.max_num_features,
                score_threshold=chosen.score_threshold,
                nms_iou=chosen.nms_iou,
            )
            result.update({name: values[kept] for name, values in cells.items()})
            result["descriptors"] = project(result["descriptors"], self.local_projection)
        return result

    def _map_rows(
        self, outputs: Arrays, level_size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (y, x) pixels of the scaled image, descriptors and scores of the inner cells."""
        features, scores = outputs["features"], outputs["scores"]
        border = self.settings.border_cells
        inner = slice(border, -border or None)
        locations = outputs.get("locations")
        if locations is None:
            grid = self._centres(scores.shape[1:], level_size)
            locations = np.repeat(grid[np.newaxis], len(scores), axis=0)
        rows = [one[:, inner, inner] for one in (locations, features)]
        scores = scores[:, inner, inner]
        return (
            *(one.reshape(len(scores), -1, one.shape[-1]) for one in rows),
            scores.reshape(len(scores), -1),
        )

    def _template_rows(
        self, outputs: Arrays, level_size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the same of super-features: where a template looked, on average."""
        attention = outputs["attention"]
        grid = self._centres(attention.shape[2:], level_size)
        locations = np.einsum("bnhw,hwc->bnc", attention, grid, optimize=True)
        return locations, outputs["superfeatures"], outputs["strengths"]

    def _centres(self, cells: tuple[int, int], level_size: tuple[int, int]) -> np.ndarray:
        """Returns the centres [h, w, 2], (y, x), of a map of `cells` = (h, w)."""
        facts = self.network.facts
        axes = [
            facts.local_stride * np.arange(cells[axis], dtype=np.float32)
            + np.float32(facts.local_offsets[level_size[axis] % OFFSET_PERIOD])
            for axis in (0, 1)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def equal_rows(keys: Sequence[Hashable], most: int) -> Iterator[list[int]]:
    """Yields rows of equal keys, at most `most` together."""
    rows: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    for members in rows.values():
        for first in range(0, len(members), most):
            yield members[first : first + most]


def l2_normalize(vectors: np.ndarray) -> np.ndarray:
    """Returns float32 vectors [..., D] of length 1; zeros stay zeros."""
    vectors = np.asarray(vectors, np.float32)
    squares = np.sum(np.square(vectors), axis=-1, keepdims=True)
    return vectors / np.sqrt(np.maximum(squares, np.float32(1e-12)))


def project(vectors: np.ndarray, projection: Projection | None) -> np.ndarray:
    """Returns vectors [..., D] normalised, and if there is a projection, projected and again."""
    vectors = l2_normalize(vectors)
    if projection is None:
        return vectors
    return l2_normalize((vectors - projection.mean) @ projection.matrix.T)
