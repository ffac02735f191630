"""DELF's own retrieval: every local feature of a query finds its neighbours, which vote for images.

H. Noh, A. Araujo, J. Sim, T. Weyand, B. Han, "Large-scale image retrieval with attentive deep local
features", ICCV 2017, section 5: an inverted file of compact codes; K = 60 neighbours a feature.
Geometric verification of the ranking's head (`retrieval.rerank`) is the second stage.

The inverted file is faiss's, see `local_codes`; the paper's own code of 50 bits is
"OPQ10,IVF8192,PQ10x5".
"""

from __future__ import annotations

import array
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import faiss
import numpy as np

from delf_tf.artifacts import StrPath, fingerprint
from delf_tf.checks import as_array, require
from delf_tf.retrieval.index_file import map_index, write_index
from delf_tf.retrieval.local_codes import (
    FACTORY,
    learned_arrays,
    read_codes,
    remove_features,
    renumber_features,
    set_search,
    train_codes,
)
from delf_tf.retrieval.ordering import arranged_rows
from delf_tf.retrieval.query_batch import (
    Queries,
    checked_k,
    checked_queries,
    rank_scores,
)
from delf_tf.types import Ranking

KIND = "local"
NUM_NEIGHBORS = 60
NUM_PROBES = 16
# p1 of CANN's kernel, see `vote_weights`.
_KERNEL_EXPONENT = 0.459


class LocalIndex:
    """An inverted file of the local features of all images.

    Memory a feature: its code's bits and 8 bytes; 28 bytes for 40 dimensions of 4 bits.

    Attributes:
      num_neighbors: features that a query's feature finds.
      num_probes: cells that it looks into.
      vote_radius: distance at which a vote weighs nothing; 0: every vote counts 1.
      fingerprint: of these, the cells and the codes.
    """

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
        self._ids: list[str] = []
        self._known: set[str] = set()
        # By id which file's content was added; whoever knows it fills it in, and the file keeps it.
        self.contents: dict[str, str] = {}
        # The number of each image's first feature, and that of the next one to be added.
        self._starts = array.array("q", [0])
        self._lock = threading.Lock()

    @classmethod
    def train(
        cls,
        samples: np.ndarray,
        factory: str = FACTORY,
        *,
        num_features: int | None = None,
        num_neighbors: int = NUM_NEIGHBORS,
        num_probes: int = NUM_PROBES,
        vote_radius: float = 0.0,
    ) -> LocalIndex:
        """Returns an empty index whose cells and codes are learned from samples.

        Args:
          samples: see `train_codes`.
          factory: see `train_codes`.
          num_features: see `train_codes`.
          num_neighbors: see the constructor.
          num_probes: see the constructor.
          vote_radius: see the constructor.

        Raises:
          InputError: as `train_codes` and the constructor.
        """
        codes = train_codes(samples, factory, num_features=num_features)
        return cls(codes, num_neighbors, num_probes, vote_radius)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> tuple[str, ...]:
        """The database's image ids in order of adding."""
        return tuple(self._ids)

    @property
    def num_features(self) -> int:
        """Number of features of all images."""
        return int(self._codes.ntotal)

    @property
    def num_bytes(self) -> int:
        """Memory of the inverted file, bytes."""
        with self._lock:
            return len(faiss.serialize_index(self._codes))

    def add(self, image_id: str, descriptors: np.ndarray) -> None:
        """Adds an image's local descriptors [N, D]; N may be 0.

        Raises:
          InputError: an id twice, another width, a NaN.
        """
        image_id = str(image_id)
        descriptors = self._checked(descriptors, image_id)
        with self._lock:
            require(
                image_id not in self._known,
                "An image must be added once.",
                hint="Remove the one that is in the index first.",
                image_id=image_id,
            )
            first = self._starts[-1]
            end = first + len(descriptors)
            if len(descriptors):
                self._codes.add_with_ids(descriptors, np.arange(first, end))
            self._ids.append(image_id)
            self._known.add(image_id)
            self._starts.append(end)

    def add_all(self, images: Iterable[tuple[str, np.ndarray]]) -> None:
        """Adds (id, descriptors [N, D]) pairs as `add` does, in order."""
        for image_id, descriptors in images:
            self.add(image_id, descriptors)

    def remove(self, image_id: str) -> None:
        """Takes an image and its features out; the images behind it move up a row.

        Raises:
          InputError: no such image.
        """
        with self._lock:
            require(image_id in self._known, "The index must hold the image.", image_id=image_id)
            row = self._ids.index(image_id)
            remove_features(self._codes, self._starts[row], self._starts[row + 1])
            del self._ids[row], self._starts[row]
            self._known.remove(image_id)

    def arrange(self, ids: Sequence[str]) -> None:
        """Keeps the images that are named, in this order, and takes all others out.

        Features that are equally far from a query's keep the order in which they were added, where
        they are more than `num_neighbors`.

        Args:
          ids: of images in the index, unique.

        Raises:
          InputError: an image that is not in the index, or twice.
        """
        gone = np.flatnonzero(arranged_rows(self._ids, ids) < 0)
        for one in [self._ids[row] for row in gone]:
            self.remove(one)
        with self._lock:
            rows, starts = arranged_rows(self._ids, ids), np.array(self._starts)
            order = np.argsort(rows)
            lengths = np.diff(starts)
            ends = np.cumsum(lengths[order])
            shifts = np.empty_like(lengths)
            shifts[order] = ends - lengths[order] - starts[order]
            renumber_features(self._codes, starts, shifts)
            self._starts = array.array("q", [0, *ends.tolist()])
            self._ids = list(ids)

    def neighbors(self, descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the nearest features of each descriptor.

        Args:
          descriptors: [N, D].

        Returns:
          Features int64 [N, num_neighbors], counted through all images ever added, in order,
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

    def search(self, queries: Queries, k: int | None = None) -> Ranking:
        """Ranks the images that have votes by their sum.

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
        """Writes the index with its cells and codes atomically and returns the path."""
        with self._lock:
            arrays = {
                "codes": faiss.serialize_index(self._codes),
                "feature_starts": np.array(self._starts),
            }
            ids = self.ids
        return write_index(
            path,
            KIND,
            fingerprint=self.fingerprint,
            ids=ids,
            arrays=arrays,
            parameters={
                "num_neighbors": self.num_neighbors,
                "num_probes": self.num_probes,
                "vote_radius": self.vote_radius,
            },
            contents=self.contents,
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
        # Mapped, so that the codes are in memory once beside faiss's copy of them.
        content = map_index(path, KIND)
        # Indexes of before have no radius.
        content.parameters.setdefault("vote_radius", 0.0)
        kinds = {"num_neighbors": int, "num_probes": int, "vote_radius": float}
        numbers = {name: content.parameter(name, kind) for name, kind in kinds.items()}
        index = cls(read_codes(content), **numbers)
        content.require_fingerprint(expected_fingerprint, index.fingerprint)
        starts = content.array("feature_starts", np.int64, (len(content.ids) + 1,))
        ordered = bool(starts[0] >= 0) and bool((np.diff(starts) >= 0).all())
        require(ordered, "The index's images must follow each other.", path=content.path)
        index._ids, index._known = list(content.ids), set(content.ids)
        index.contents = content.contents
        index._starts = array.array("q", starts.tobytes())
        return index

    def _checked(self, descriptors: np.ndarray, image_id: str) -> np.ndarray:
        return as_array(f"descriptors of {image_id}", descriptors, ("N", self._codes.d))

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
