"""Finds the visual words nearest to descriptors, exactly or by compact codes with re-scoring."""

from __future__ import annotations

import threading

import faiss
import numpy as np

from delf_tf.checks import as_array, require_choice
from delf_tf.retrieval.ordering import descending

ASSIGNERS = ("auto", "exact", "compact")

# Up to this many words the exact search takes no more than a quarter of what 65,536 take.
MAX_EXACT_WORDS = 16_384

# Candidates a descriptor that the compact search re-scores exactly: of the five nearest of 65,536
# words it finds 99 % on real features, of the nearest one 99.9 %.
_NUM_CANDIDATES = 40
_MAX_TRAINING_ROWS = 32_768
# Of a squared distance as faiss computes it, relative to the vectors' squared norms.
_ROUNDING = 1e-6


class WordAssigner:
    """Finds the nearest rows of a codebook by Euclidean distance.

    "exact" compares with every word. "compact" compares 4-bit product codes of all words, two
    dimensions a code, and re-scores the best 40 exactly: about a third of the time at 65,536 words.
    "auto" is exact up to `MAX_EXACT_WORDS` words. All are deterministic.
    """

    def __init__(self, centroids: np.ndarray, kind: str = "auto"):
        """Takes the codebook.

        Args:
          centroids: float32 [K, D], K and D at least 1.
          kind: one of `ASSIGNERS`.

        Raises:
          InputError: not such a matrix, not finite, an unknown kind.
        """
        require_choice("assigner", kind, ASSIGNERS)
        self.centroids = as_array("centroids", centroids, ("K", "D"))
        if kind == "auto":
            kind = "exact" if len(self.centroids) <= MAX_EXACT_WORDS else "compact"
        self.kind = kind
        self._index: faiss.Index | None = None
        self._lock = threading.Lock()

    def nearest(self, descriptors: np.ndarray, num_words: int = 1) -> np.ndarray:
        """Returns int64 [N, min(num_words, K)], the nearest words of float32 [N, D], nearest first.

        The caller has checked the descriptors.
        """
        num_words = min(num_words, len(self.centroids))
        if not len(descriptors):
            return np.zeros((0, num_words), np.int64)
        with self._lock:
            if self._index is None:
                self._index = self._build()
        if self.kind == "exact":
            return self._exactly(self._index, descriptors, num_words)
        # Enough candidates for one word as for five.
        parameters = faiss.IndexRefineSearchParameters()
        parameters.k_factor = max(8.0, _NUM_CANDIDATES / num_words)
        found = self._index.search(_even(descriptors), num_words, params=parameters)[1]
        return np.where(found < 0, found[:, :1], found)

    def _exactly(self, index: faiss.Index, descriptors: np.ndarray, num_words: int) -> np.ndarray:
        """Searches all words; what the product rounds too much to order is compared in float64."""
        depth = min(num_words + 1, len(self.centroids))
        distances, found = index.search(descriptors, depth)
        norms = np.einsum("nd,nd->n", descriptors, descriptors)[:, None]
        tolerance = _ROUNDING * descriptors.shape[1] ** 0.5 * (norms + distances)
        unsure = (np.diff(distances, axis=1) <= tolerance[:, 1:]).any(axis=1)
        found = found[:, :num_words].copy()
        for row in np.flatnonzero(unsure):
            furthest = float(distances[row, num_words - 1] + tolerance[row, num_words - 1])
            near = index.range_search(descriptors[row : row + 1], furthest)[2]
            found[row] = self._sorted(descriptors[row], near)[:num_words]
        return found

    def _sorted(self, descriptor: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Returns words int64 [W], nearest first, equally near ones by row."""
        words = np.sort(words)
        differences = self.centroids[words].astype(np.float64) - descriptor
        return words[descending(-np.einsum("wd,wd->w", differences, differences))]

    def _build(self) -> faiss.Index:
        if self.kind == "exact":
            exact = faiss.IndexFlatL2(self.centroids.shape[1])
            exact.add(self.centroids)
            return exact
        words = _even(self.centroids)
        index = faiss.index_factory(words.shape[1], f"PQ{words.shape[1] // 2}x4fs,RFlat")
        index.train(words[:: -(-len(words) // _MAX_TRAINING_ROWS)])
        index.add(words)
        return index


def _even(rows: np.ndarray) -> np.ndarray:
    """Appends a column of zeros to an odd number of columns; distances stay."""
    return np.pad(rows, ((0, 0), (0, 1))) if rows.shape[1] % 2 else rows
