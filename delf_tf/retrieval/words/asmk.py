"""ASMK: aggregated selective match kernels over an inverted file.

G. Tolias, Y. Avrithis, H. Jégou, "Image search with selective match kernels: aggregation across
single and multiple images", IJCV 2016; binary and with multiple assignment of queries as in
G. Tolias, T. Jenicek, O. Chum, "Learning and aggregating deep local descriptors for instance-level
recognition", ECCV 2020.

An image is a set of visual words; each word carries the sum of the residuals of the features that
fell into it, reduced to its signs (ASMK*) or L2-normalised (ASMK). The score of a database image X
for a query Y is

    sum over common words w of idf(w) · σ(similarity(X_w, Y_w)) / sqrt(norm(X) · norm(Y)),
    σ(s) = sign(s) |s|^alpha where s ≥ similarity_threshold, else 0,

with norm(X) the number of X's words, or the sum of their idf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from delf_tf.artifacts import StrPath, fingerprint
from delf_tf.checks import as_array, require
from delf_tf.retrieval.index_file import read_index
from delf_tf.retrieval.local_index import LocalFeatureIndex
from delf_tf.retrieval.query_batch import blocks
from delf_tf.retrieval.words import loops
from delf_tf.retrieval.words.posting_lists import PostingLists
from delf_tf.retrieval.words.residuals import pack_signs, residuals_by_word
from delf_tf.retrieval.words.word_assignment import WordAssigner
from delf_tf.threads import default_num_threads, run_all

_EPS = np.float32(1e-6)


@dataclasses.dataclass(frozen=True, eq=False)
class _Snapshot:
    """The inverted file at one moment, with what depends on all of it.

    Attributes:
      num_images: images in it.
      lists: offsets, owners, payload of `PostingLists.compact`.
      idf: float64 [K].
      scale: float64 [num_images], 1 / sqrt(norm), 0 for an image without words.
    """

    num_images: int
    lists: tuple[np.ndarray, np.ndarray, np.ndarray]
    idf: np.ndarray
    scale: np.ndarray


class AsmkIndex(LocalFeatureIndex):
    """An inverted file of aggregated residuals.

    Memory a word of an image: 4 bytes and ceil(D / 64) · 8 (binary) or 4 · D (real).
    """

    kind = "asmk"

    def __init__(  # noqa: PLR0917 - the published order of arguments
        self,
        centroids: np.ndarray,
        binary: bool = True,
        use_idf: bool = False,
        query_assignments: int = 5,
        alpha: float = 3.0,
        similarity_threshold: float = 0.0,
    ):
        """Makes an empty index.

        Args:
          centroids: float32 [K, D], the codebook.
          binary: keep the residuals' signs (ASMK*) rather than the residuals (ASMK).
          use_idf: weight a word by ln(images / images with the word)², kept up to date by `add`;
            a word of no database image weighs 1.
          query_assignments: words that a query's feature falls into; all, if there are fewer.
            A database feature falls into one.
          alpha: exponent of the kernel.
          similarity_threshold: lower similarities count as zero; -1 to 1. Similarity of signs is
            1 − 2 · Hamming distance / bits, with the bits rounded up to a multiple of 32, as the
            reference implementation normalises it.

        Raises:
          InputError: no words, a NaN, a parameter out of its range.
        """
        centroids = as_array("centroids", centroids, ("K", "D"))
        require(centroids.size > 0, "centroids must not be empty.", centroids=centroids)
        require(
            isinstance(query_assignments, (int, np.integer)) and query_assignments >= 1,
            "query_assignments must be a whole number of at least 1.",
            query_assignments=query_assignments,
        )
        require(0 < alpha < 1e3, "alpha must be positive and below 1000.", alpha=alpha)
        require(
            -1 <= similarity_threshold <= 1,
            "similarity_threshold must be between -1 and 1.",
            similarity_threshold=similarity_threshold,
        )
        super().__init__(centroids.shape[1])
        self.binary, self.use_idf = bool(binary), bool(use_idf)
        self.query_assignments = int(query_assignments)
        self.alpha, self.similarity_threshold = float(alpha), float(similarity_threshold)
        self._assigner = WordAssigner(centroids)
        self.fingerprint = fingerprint(
            repr(sorted(self._parameters().items())), repr(centroids.shape), centroids.tobytes()
        )
        num_words, dim = centroids.shape
        width, dtype = (-(-dim // 64), np.uint64) if self.binary else (dim, np.float32)
        self._lists = PostingLists(num_words, width, dtype)
        self._kernel = self._binary_kernel()
        self._last: _Snapshot | None = None

    @property
    def centroids(self) -> np.ndarray:
        """The codebook, float32 [K, D]."""
        return self._assigner.centroids

    @property
    def num_bytes(self) -> int:
        """Memory of the inverted file, bytes."""
        return self._lists.num_bytes

    def scores(self, descriptors: np.ndarray, words: np.ndarray | None = None) -> np.ndarray:
        """Returns float64 [images], the score of every database image in row order.

        Args:
          descriptors: [N, D], of the query; with none all scores are 0.
          words: int [N, A], the words of each descriptor where they are known already.

        Raises:
          InputError: another width, a NaN.
        """
        descriptors = self._checked(descriptors, "the query")
        if words is None:
            words = self._assigner.nearest(descriptors, self.query_assignments)
        return self._scores(descriptors, words, self._snapshot())

    @classmethod
    def load(cls, path: StrPath, expected_fingerprint: str | None = None) -> AsmkIndex:
        """See LocalFeatureIndex; the index gives the scores that the saved one gave."""
        content = read_index(path, cls.kind)
        index = cls(
            content.array("centroids", np.float32, (None, None)),
            binary=content.parameter("binary", bool),
            use_idf=content.parameter("use_idf", bool),
            query_assignments=content.parameter("query_assignments", int),
            alpha=content.parameter("alpha", float),
            similarity_threshold=content.parameter("similarity_threshold", float),
        )
        index._restore(content, expected_fingerprint)
        index._lists.read(content, len(content.ids))
        return index

    def _parameters(self) -> dict[str, Any]:
        return {
            "binary": self.binary,
            "use_idf": self.use_idf,
            "query_assignments": self.query_assignments,
            "alpha": self.alpha,
            "similarity_threshold": self.similarity_threshold,
            "assigner": self._assigner.kind,
        }

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"centroids": self.centroids, **self._lists.arrays()}

    def _encode(
        self, descriptors: np.ndarray, words: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Aggregates an image; `words` are its descriptors', int [N], where they are known."""
        if words is None:
            return self._aggregate(descriptors, self._assigner.nearest(descriptors))
        assigned = as_array("words", words, (len(descriptors),), np.int64)
        inside = bool(((assigned >= 0) & (assigned < len(self.centroids))).all())
        require(inside, f"words must be in 0..{len(self.centroids) - 1}.", words=assigned)
        return self._aggregate(descriptors, assigned[:, None])

    def _append(self, encoded: tuple[np.ndarray, np.ndarray]) -> None:
        words, payload = encoded
        self._lists.append(words, np.full(len(words), len(self._ids)), payload)

    def _renumber(self, rows: np.ndarray) -> None:
        self._lists.renumber(rows)
        self._last = None

    def _binary_kernel(self) -> np.ndarray:
        """Returns the kernel at every Hamming distance, float64 [64 · width + 1]."""
        dim = self.centroids.shape[1]
        num_bits = 32 * -(-dim // 32)
        similarity = 1 - 2 * np.arange(64 * -(-dim // 64) + 1) / num_bits
        kernel = np.sign(similarity) * np.abs(similarity) ** self.alpha
        return np.where(similarity >= self.similarity_threshold, kernel, 0)

    def _aggregate(
        self, descriptors: np.ndarray, words: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the words int64 [W] and uint64 [W, S] signatures or float32 [W, D] residuals."""
        unique, sums = residuals_by_word(descriptors, words, self.centroids)
        if not self.binary:
            return unique, sums / (np.linalg.norm(sums, axis=1, keepdims=True) + _EPS)
        packed = pack_signs(sums)
        signatures = np.zeros((len(unique), 8 * -(-packed.shape[1] // 8)), np.uint8)
        signatures[:, : packed.shape[1]] = packed
        return unique, signatures.view(np.uint64)

    def _snapshot(self) -> _Snapshot:
        with self._lock:
            num_images = len(self._ids)
            if self._last is None or self._last.num_images != num_images:
                lists = self._lists.compact()
                idf = np.ones(len(self.centroids))
                if self.use_idf:
                    counts = np.diff(lists[0])
                    idf[counts > 0] = np.log(num_images / counts[counts > 0]) ** 2
                norms = np.zeros(num_images)
                loops.sum_weights(lists[0], lists[1], idf, norms)
                self._last = _Snapshot(num_images, lists, idf, _inverse_sqrt(norms))
            return self._last

    def _scores_of_all(self, queries: list[np.ndarray]) -> Iterator[np.ndarray]:
        snapshot = self._snapshot()
        for block in blocks(queries):
            # The codes of a whole block are looked up at once, then every core takes a query.
            words = self._assigner.nearest(np.concatenate(block), self.query_assignments)
            ends = np.cumsum([len(one) for one in block])[:-1]
            pairs = list(zip(block, np.split(words, ends)))
            yield from run_all(
                lambda pair: self._scores(pair[0], pair[1], snapshot), pairs, default_num_threads()
            )

    def _scores(
        self, descriptors: np.ndarray, words: np.ndarray, snapshot: _Snapshot
    ) -> np.ndarray:
        unique, query = self._aggregate(descriptors, words)
        weights = snapshot.idf[unique]
        scores = np.zeros(snapshot.num_images)
        if self.binary:
            loops.score_binary(snapshot.lists, (unique, query, weights), self._kernel, scores)
        else:
            limits = self.alpha, self.similarity_threshold
            loops.score_real(snapshot.lists, (unique, query, weights), limits, scores)
        return scores * snapshot.scale * _inverse_sqrt(weights.sum())


def _inverse_sqrt(norms: np.ndarray) -> np.ndarray:
    """Returns 1 / sqrt(norms), and 0 where there is nothing to normalise."""
    return np.divide(1, np.sqrt(norms), out=np.zeros_like(norms), where=norms > 0)
