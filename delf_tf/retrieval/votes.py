"""DELF's own retrieval: every local feature of a query finds its neighbours, which vote for images.

H. Noh, A. Araujo, J. Sim, T. Weyand, B. Han, "Large-scale image retrieval with attentive deep local
features", ICCV 2017, section 5: an inverted file of compact codes; K = 60 neighbours a feature.
Geometric verification of the ranking's head (`retrieval.rerank`) is the second stage.

The inverted file is faiss's, see `local_codes`; the paper's own code of 50 bits is
"OPQ10,IVF8192,PQ10x5".
"""

from __future__ import annotations

import array
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from delf_tf.artifacts import StrPath, fingerprint
from delf_tf.checks import require
from delf_tf.retrieval.index_file import map_index
from delf_tf.retrieval.local_codes import (
    FACTORY,
    learned_arrays,
    read_codes,
    remove_features,
    renumber_features,
    set_search,
    train_codes,
)
from delf_tf.retrieval.local_index import LocalFeatureIndex

NUM_NEIGHBORS = 60
NUM_PROBES = 16
# p1 of CANN's kernel, see `vote_weights`.
_KERNEL_EXPONENT = 0.459


class LocalIndex(LocalFeatureIndex):
    """An inverted file of the local features of all images, which vote by their neighbours.

    A result has at least one vote. Features that are equally far from a query's keep the order in
    which they were added, where they are more than `num_neighbors`.

    Memory a feature: its code's bits and 8 bytes; 28 bytes for 40 dimensions of 4 bits.

    Attributes:
      num_neighbors: features that a query's feature finds.
      num_probes: cells that it looks into.
      vote_radius: distance at which a vote weighs nothing; 0: every vote counts 1.
    """

    kind = "local"
    needs_score = True

    def __init__(
        self,
        codes: faiss.Index,
        num_neighbors: int = NUM_NEIGHBORS,
        num_probes: int = NUM_PROBES,
        vote_radius: float = 0.0,
    ):
        """Makes an index without images.

        Args:
          codes: as `train_codes` returns it; it belongs to this object from now on.
          num_neighbors: at least 1.
          num_probes: at least 1; all cells, if there are fewer.
          vote_radius: 0 for DELF's votes; above it, CANN's, see `search`.

        Raises:
          InputError: a number out of its range.
        """
        super().__init__(codes.d)
        for name, value in (("num_neighbors", num_neighbors), ("num_probes", num_probes)):
            whole = isinstance(value, (int, np.integer)) and 1 <= value <= 1 << 16
            require(whole, f"{name} must be a whole number from 1 to 65536.", value=value)
        must = "vote_radius must be a finite number of 0 or more."
        require(0 <= vote_radius < np.inf, must, vote_radius=vote_radius)
        self.num_neighbors, self.num_probes = int(num_neighbors), int(num_probes)
        self.vote_radius = float(vote_radius)
        self._codes = codes
        set_search(codes, self.num_probes)
        self.fingerprint = fingerprint(
            *(one.tobytes() for one in learned_arrays(codes)),
            f"{self.num_neighbors} {self.num_probes}"
            + (f" {self.vote_radius}" if self.vote_radius else ""),
        )
        # The number of each image's first feature, and that of the next one to be added.
        self._starts = array.array("q", [0])

    @classmethod
    def train(
        cls,
        samples: np.ndarray,
        factory: str = FACTORY,
        *,
        num_features: int | None = None,
        **kwargs: Any,
    ) -> LocalIndex:
        """Returns an empty index whose cells and codes are learned from samples.

        Args:
          samples: see `train_codes`.
          factory: see `train_codes`.
          num_features: see `train_codes`.
          **kwargs: of the constructor.

        Raises:
          InputError: as `train_codes` and the constructor.
        """
        codes = train_codes(samples, factory, num_features=num_features)
        return cls(codes, **kwargs)

    @property
    def num_features(self) -> int:
        """Number of features of all images."""
        return int(self._codes.ntotal)

    @property
    def num_bytes(self) -> int:
        """Memory of the inverted file, bytes."""
        with self._lock:
            return len(faiss.serialize_index(self._codes))

    def neighbors(self, descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the nearest features of each descriptor.

        Args:
          descriptors: [N, D].

        Returns:
          Features int64 [N, num_neighbors], counted through all images in order of adding,
          nearest first and equally near ones by number, -1 where there are fewer; and squared
          distances to their codes, float32 [N, num_neighbors], infinite at -1.

        Raises:
          InputError: another width, a NaN.
        """
        features, distances, _ = self._neighbors(self._checked(descriptors, "the query"))
        return features, np.where(features < 0, np.inf, distances)

    def votes(self, descriptors: np.ndarray) -> np.ndarray:
        """Returns float64 [images], the votes that the descriptors give each image.

        A descriptor votes once for an image, so that a repeated pattern does not outvote the rest.
        Without a radius a vote counts 1. With one it is that of the nearest neighbour in the image,
        by `vote_weights`, and the sum is divided by the number of descriptors.

        Raises:
          InputError: another width, a NaN.
        """
        return self._votes(self._checked(descriptors, "the query"))

    @classmethod
    def load(cls, path: StrPath, expected_fingerprint: str | None = None) -> LocalIndex:
        """See LocalFeatureIndex."""
        # Mapped, so that the codes are in memory once beside faiss's copy of them.
        content = map_index(path, cls.kind)
        # Indexes of before have no radius.
        content.parameters.setdefault("vote_radius", 0.0)
        kinds = {"num_neighbors": int, "num_probes": int, "vote_radius": float}
        numbers = {name: content.parameter(name, kind) for name, kind in kinds.items()}
        index = cls(read_codes(content), **numbers)
        index._restore(content, expected_fingerprint)
        starts = content.array("feature_starts", np.int64, (len(content.ids) + 1,))
        ordered = bool(starts[0] >= 0) and bool((np.diff(starts) >= 0).all())
        require(ordered, "The index's images must follow each other.", path=content.path)
        index._starts = array.array("q", starts.tobytes())
        return index

    def _append(self, encoded: np.ndarray) -> None:
        first = self._starts[-1]
        end = first + len(encoded)
        if len(encoded):
            self._codes.add_with_ids(encoded, np.arange(first, end))
        self._starts.append(end)

    def _renumber(self, rows: np.ndarray) -> None:
        starts = np.array(self._starts)
        for row in np.flatnonzero(rows < 0):
            remove_features(self._codes, int(starts[row]), int(starts[row + 1]))
        order = np.argsort(rows)[np.count_nonzero(rows < 0) :]
        lengths = np.diff(starts)[order]
        ends = np.cumsum(lengths)
        shifts = np.zeros(len(rows), np.int64)
        shifts[order] = ends - lengths - starts[order]
        renumber_features(self._codes, starts, shifts)
        self._starts = array.array("q", [0, *ends.tolist()])

    def _scores_of_all(self, queries: list[np.ndarray]) -> Iterator[np.ndarray]:
        return map(self._votes, queries)

    def _arrays(self) -> dict[str, np.ndarray]:
        codes = faiss.serialize_index(self._codes)
        return {"codes": codes, "feature_starts": np.array(self._starts)}

    def _parameters(self) -> dict[str, Any]:
        return {
            "num_neighbors": self.num_neighbors,
            "num_probes": self.num_probes,
            "vote_radius": self.vote_radius,
        }

    def _neighbors(self, descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns features and distances [N, K], and the images' first features [images]."""
        with self._lock:
            distances, features = self._codes.search(descriptors, self.num_neighbors)
            return features, distances, np.array(self._starts)[:-1]

    def _votes(self, descriptors: np.ndarray) -> np.ndarray:
        features, distances, starts = self._neighbors(descriptors)
        images = np.searchsorted(starts, features, side="right") - 1
        # Nearest first within an image, as the neighbours are.
        order = np.argsort(images, axis=1, kind="stable")
        images = np.take_along_axis(images, order, axis=1)
        counts = images >= 0
        counts[:, 1:] &= images[:, 1:] != images[:, :-1]
        if not self.vote_radius:
            return np.bincount(images[counts], minlength=len(starts)).astype(np.float64)
        near = np.take_along_axis(distances, order, axis=1)[counts].astype(np.float64)
        weights = vote_weights(np.sqrt(np.maximum(near, 0)), self.vote_radius)
        return np.bincount(images[counts], weights, len(starts)) / max(len(descriptors), 1)


def vote_weights(distances: np.ndarray, radius: float) -> np.ndarray:
    """Returns what votes from float64 distances weigh: 1 at 0, 0 from the radius on.

    (1 - (r / p0)^(p1 / (1 - p1)))^((1 - p1) / p1), the similarity of D. Aiger, A. Araujo,
    S. Lynen, "Yes, we CANN", ICCV 2023, as released: p0 the radius, p1 = 0.459.
    """
    power = _KERNEL_EXPONENT / (1 - _KERNEL_EXPONENT)
    return (1 - np.minimum(distances / radius, 1) ** power) ** (1 / power)
