"""DELF's own retrieval: every local feature of a query finds its neighbours, which vote for images.

H. Noh, A. Araujo, J. Sim, T. Weyand, B. Han, "Large-scale image retrieval with attentive deep local
features", ICCV 2017, section 5: an inverted file of compact codes; K = 60 neighbours a feature.
Geometric verification of the ranking's head (`retrieval.rerank`) is the second stage.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from delf_tf.artifacts import StrPath, fingerprint
from delf_tf.checks import as_array, require
from delf_tf.matching.threads import default_num_threads, run_all
from delf_tf.retrieval import local_kernels
from delf_tf.retrieval.code_blocks import CodeLists
from delf_tf.retrieval.index_file import read_index, write_index
from delf_tf.retrieval.local_quantizer import LocalQuantizer
from delf_tf.retrieval.query_batch import Queries, checked_k, checked_queries, rank_scores
from delf_tf.types import Ranking

KIND = "local"
NUM_NEIGHBORS = 60
_MAX_FEATURES = (1 << 32) - 1
# Features that a thread searches at a time: small enough to share evenly among threads.
_CHUNK = 128


class LocalIndex:
    """An inverted file of the local features of all images.

    Memory a feature: its code's bits and 4 bytes; 10.25 bytes for the 50-bit code.

    Attributes:
      quantizer: cells and codes.
      num_neighbors: features that a query's feature finds.
      num_probes: cells that it looks into.
      fingerprint: of all three.
    """

    def __init__(
        self, quantizer: LocalQuantizer, num_neighbors: int = NUM_NEIGHBORS, num_probes: int = 16
    ):
        """Makes an empty index.

        Args:
          quantizer: trained on features like those to be added.
          num_neighbors: at least 1.
          num_probes: at least 1; all cells, if there are fewer.

        Raises:
          InputError: a number out of its range.
        """
        for name, value in (("num_neighbors", num_neighbors), ("num_probes", num_probes)):
            whole = isinstance(value, (int, np.integer)) and 1 <= value <= 1 << 16
            require(whole, f"{name} must be a whole number from 1 to 65536.", value=value)
        self.quantizer = quantizer
        self.num_neighbors, self.num_probes = int(num_neighbors), int(num_probes)
        self.fingerprint = fingerprint(
            quantizer.fingerprint, f"{self.num_neighbors} {self.num_probes}"
        )
        self._lists = CodeLists(
            len(quantizer.centroids), len(quantizer.codebooks), quantizer.num_bits
        )
        self._ids: list[str] = []
        self._known: set[str] = set()
        self._ends: list[int] = []
        self._lock = threading.Lock()

    @classmethod
    def train(
        cls,
        samples: np.ndarray,
        factory: str = "OPQ10,IVF8192,PQ10x5",
        *,
        seed: int = 0,
        num_neighbors: int = NUM_NEIGHBORS,
        num_probes: int = 16,
    ) -> LocalIndex:
        """Returns an empty index whose quantizer is learned from `samples` [S, D].

        Args:
          samples: features of other images, or some of the database's.
          factory: "[OPQ{M},]IVF{cells},PQ{M}x{bits}", see `local_quantizer.Factory`.
          seed: of the training.
          num_neighbors: see the constructor.
          num_probes: see the constructor.

        Raises:
          InputError: too few samples, a NaN, a factory that does not fit.
        """
        return cls(LocalQuantizer.train(samples, factory, seed), num_neighbors, num_probes)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> tuple[str, ...]:
        """The database's image ids in order of adding."""
        return tuple(self._ids)

    @property
    def num_features(self) -> int:
        """Number of features of all images."""
        return self._ends[-1] if self._ends else 0

    @property
    def num_bytes(self) -> int:
        """Memory of the inverted file, bytes."""
        return self._lists.num_bytes

    def add(self, image_id: str, descriptors: np.ndarray) -> None:
        """Adds an image's local descriptors [N, D]; N may be 0.

        Raises:
          InputError: an id twice, another width, a NaN, more than 2^32 − 1 features in all.
        """
        image_id = str(image_id)
        cells, codes = self.quantizer.encode(self._checked(descriptors, image_id))
        with self._lock:
            first = self.num_features
            require(
                image_id not in self._known,
                "An image must be added once.",
                hint="Build a new index to replace an image.",
                image_id=image_id,
            )
            require(
                first + len(cells) <= _MAX_FEATURES,
                f"An index must hold at most {_MAX_FEATURES} features.",
                hint="Split the database.",
                num_features=first + len(cells),
            )
            self._lists.append(cells, np.arange(first, first + len(cells)), codes)
            self._ids.append(image_id)
            self._known.add(image_id)
            self._ends.append(first + len(cells))

    def add_all(self, images: Iterable[tuple[str, np.ndarray]]) -> None:
        """Adds (id, descriptors [N, D]) pairs as `add` does, in order."""
        for image_id, descriptors in images:
            self.add(image_id, descriptors)

    def neighbors(self, descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the nearest features of each descriptor.

        Args:
          descriptors: [N, D].

        Returns:
          Features int64 [N, num_neighbors], counted through all images in order of adding, nearest
          first and equally near ones by number, -1 where there are fewer; and squared distances to
          their codes, float32 [N, num_neighbors], infinite at -1.

        Raises:
          InputError: another width, a NaN.
        """
        return self._neighbors(self._checked(descriptors, "the query"))

    def votes(self, descriptors: np.ndarray) -> np.ndarray:
        """Returns int64 [images], the descriptors that have a neighbour in each image.

        A descriptor votes once for an image, so that a repeated pattern does not outvote the rest.

        Raises:
          InputError: another width, a NaN.
        """
        return self._votes(self._checked(descriptors, "the query"))

    def search(self, queries: Queries, k: int | None = None) -> Ranking:
        """Ranks the images that have votes by their number.

        Args:
          queries: mapping of id to descriptors [N, D], or pairs of them.
          k: results a query; None for as many as there are images.

        Returns:
          The ranking; scores are votes, equal ones in order of adding, -1 where none has any.

        Raises:
          InputError: an empty index, k above the number of images, an id twice, bad descriptors.
        """
        pairs = checked_queries(queries, self._checked)
        k = checked_k(k, len(self))
        indices = np.full((len(pairs), k), -1, np.int64)
        scores = np.zeros((len(pairs), k), np.float32)
        for row, (_, descriptors) in enumerate(pairs):
            votes = self._votes(descriptors)
            best = rank_scores(votes, k)
            best = best[votes[best] > 0]
            indices[row, : len(best)] = best
            scores[row, : len(best)] = votes[best]
        return Ranking(tuple(one for one, _ in pairs), self.ids, indices, scores)

    def save(self, path: StrPath) -> Path:
        """Writes the index with its quantizer atomically and returns the path."""
        with self._lock:
            arrays = {
                "rotation": self.quantizer.rotation,
                "centroids": self.quantizer.centroids,
                "codebooks": self.quantizer.codebooks,
                "feature_ends": np.array(self._ends, np.int64),
                **self._lists.arrays(),
            }
            ids = self.ids
        return write_index(
            path,
            KIND,
            fingerprint=self.fingerprint,
            ids=ids,
            arrays=arrays,
            parameters={"num_neighbors": self.num_neighbors, "num_probes": self.num_probes},
        )

    @classmethod
    def load(cls, path: StrPath, expected_fingerprint: str | None = None) -> LocalIndex:
        """Reads an index.

        Args:
          path: written by `save`.
          expected_fingerprint: refuse an index of another one.

        Raises:
          InputError: no such file, damaged, another kind, another fingerprint.
        """
        content = read_index(path, KIND)
        arrays = {
            name: content.array(name, np.float32, (None,) * num_axes)
            for name, num_axes in (("rotation", 2), ("centroids", 2), ("codebooks", 3))
        }
        index = cls(
            LocalQuantizer(**arrays),
            content.parameter("num_neighbors", int),
            content.parameter("num_probes", int),
        )
        content.require_fingerprint(expected_fingerprint, index.fingerprint)
        ends = content.array("feature_ends", np.int64, (len(content.ids),))
        total = int(ends[-1]) if len(ends) else 0
        index._lists.read(content, total)
        ordered = bool((np.diff(ends, prepend=0) >= 0).all()) and len(index._lists) == total
        require(ordered, "The index must hold every image's features.", path=content.path)
        index._ids, index._known = list(content.ids), set(content.ids)
        index._ends = ends.tolist()
        return index

    def _checked(self, descriptors: np.ndarray, image_id: str) -> np.ndarray:
        return as_array(f"descriptors of {image_id}", descriptors, ("N", self.quantizer.dim))

    def _neighbors(self, descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:
            lists = self._lists.blocks()
        rotated = self.quantizer.rotated(descriptors)
        shape = len(rotated), self.num_neighbors
        features, distances = np.empty(shape, np.int64), np.empty(shape, np.float32)
        coder = (
            self.quantizer.centroids,
            np.ascontiguousarray(self.quantizer.codebooks.transpose(0, 2, 1)),
        )

        def search_rows(rows: slice) -> None:
            cells = self.quantizer.cells(rotated[rows], self.num_probes)
            local_kernels.nearest_features(
                tuple(lists), coder, (rotated[rows], cells), (features[rows], distances[rows])
            )

        run_all(search_rows, list(_chunks(len(rotated))), default_num_threads())
        return features, distances

    def _votes(self, descriptors: np.ndarray) -> np.ndarray:
        features, _ = self._neighbors(descriptors)
        with self._lock:
            ends = np.array(self._ends, np.int64)
        images = np.searchsorted(ends, features, side="right")
        votes = np.zeros(len(ends) + 1, np.int64)
        local_kernels.count_votes(np.where(features < 0, len(ends), images), votes)
        return votes[:-1]


def _chunks(num_rows: int) -> Iterator[slice]:
    for start in range(0, num_rows, _CHUNK):
        yield slice(start, start + _CHUNK)
