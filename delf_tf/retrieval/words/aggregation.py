"""An image as one vector or one set of visual words: VLAD, ASMK, ASMK* and their regional forms.

VLAD: H. Jégou, M. Douze, C. Schmid, P. Pérez, "Aggregating local descriptors into a compact image
representation", CVPR 2010. ASMK: see `retrieval.asmk`, which searches many images at once; here are
the representations and similarities as the original DELF computes and stores them. Regional forms:
M. Teichmann, A. Araujo, M. Zhu, J. Sim, "Detect-to-Retrieve: efficient regional aggregation for
image search", CVPR 2019.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from delf_tf.checks import as_array, require
from delf_tf.retrieval.words.residuals import pack_signs, residuals_by_word
from delf_tf.retrieval.words.word_assignment import WordAssigner

# A word's residual of a smaller norm has no direction: its features lie on the centroid.
MIN_NORM = 1e-6
_EPS = np.float32(1e-12)
_BITS = np.array([bin(byte).count("1") for byte in range(256)], np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class AggregatedWords:
    """The visual words of an image, each with what was aggregated in it (ASMK or ASMK*).

    Attributes:
      words: int64 [W], ascending.
      vectors: float32 [W, D] of L2 norm 1, or uint8 [W, ceil(D / 8)], the signs' bits.
      dim: D.
    """

    words: np.ndarray
    vectors: np.ndarray
    dim: int

    def __post_init__(self) -> None:
        words = as_array("AggregatedWords.words", self.words, ("W",), np.int64)
        binary = getattr(self.vectors, "dtype", None) == np.uint8
        shape = (len(words), -(-self.dim // 8) if binary else self.dim)
        dtype = np.uint8 if binary else np.float32
        vectors = as_array("AggregatedWords.vectors", self.vectors, shape, dtype)
        ascending = bool((np.diff(words) > 0).all()) and bool((words[:1] >= 0).all())
        require(ascending, "AggregatedWords.words must ascend from 0.", words=words)
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "vectors", vectors)

    def __len__(self) -> int:
        return len(self.words)

    @property
    def binary(self) -> bool:
        """Whether the vectors are bits (ASMK*)."""
        return self.vectors.dtype == np.uint8


class Aggregator:
    """Aggregates the local descriptors of images over one codebook."""

    def __init__(self, centroids: np.ndarray, num_assignments: int = 1, *, assigner: str = "auto"):
        """Takes the codebook.

        Args:
          centroids: float32 [K, D].
          num_assignments: words that a descriptor falls into; all, if there are fewer.
          assigner: see `WordAssigner`.

        Raises:
          InputError: no such codebook, a number below 1.
        """
        self._assigner = WordAssigner(centroids, assigner)
        require(self.centroids.size > 0, "centroids must not be empty.", centroids=centroids)
        require(
            isinstance(num_assignments, (int, np.integer)) and num_assignments >= 1,
            "num_assignments must be a whole number of at least 1.",
            num_assignments=num_assignments,
        )
        self.num_assignments = int(num_assignments)

    @property
    def centroids(self) -> np.ndarray:
        """The codebook, float32 [K, D]."""
        return self._assigner.centroids

    def vlad(self, descriptors: np.ndarray, *, l2_normalize: bool = True) -> np.ndarray:
        """Returns float32 [K · D]: each word's sum of residuals.

        Args:
          descriptors: [N, D].
          l2_normalize: scale to norm 1; without descriptors the result is zeros.

        Raises:
          InputError: another width, a NaN.
        """
        sums = self._residuals(descriptors)
        return self._dense(_normalized(sums) if l2_normalize else sums)

    def regional_vlad(
        self, regions: Sequence[np.ndarray], *, l2_normalize: bool = False
    ) -> np.ndarray:
        """Returns float32 [K · D]: the mean over regions of their normalised VLADs.

        Args:
          regions: the descriptors [N, D] of each region; one without any counts into the mean.
          l2_normalize: scale the sum to norm 1 instead of dividing by the number of regions.

        Raises:
          InputError: another width, a NaN.
        """
        return self._dense(self._regional(regions, l2_normalize))

    def asmk(self, descriptors: np.ndarray, *, binary: bool = False) -> AggregatedWords:
        """Returns the image's words with their normalised residuals, or with `binary` their signs.

        Raises:
          InputError: another width, a NaN.
        """
        return self._by_word(self._residuals(descriptors), binary)

    def regional_asmk(
        self, regions: Sequence[np.ndarray], *, binary: bool = False
    ) -> AggregatedWords:
        """As `asmk`, of the mean over regions of their normalised VLADs.

        Args:
          regions: the descriptors [N, D] of each region.
          binary: keep signs.

        Raises:
          InputError: another width, a NaN.
        """
        return self._by_word(self._regional(regions, False), binary)

    def _residuals(self, descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = as_array("descriptors", descriptors, ("N", self.centroids.shape[1]))
        words = self._assigner.nearest(rows, self.num_assignments)
        return residuals_by_word(rows, words, self.centroids)

    def _regional(
        self, regions: Sequence[np.ndarray], l2_normalize: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        parts = [_normalized(self._residuals(region)) for region in regions]
        words = np.unique(np.concatenate([part[0] for part in parts] or [np.zeros(0, np.int64)]))
        sums = np.zeros((len(words), self.centroids.shape[1]), np.float32)
        for part_words, part_sums in parts:
            sums[np.searchsorted(words, part_words)] += part_sums
        if l2_normalize:
            return _normalized((words, sums))
        return words, sums / np.float32(max(len(parts), 1))

    def _dense(self, sums: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        dense = np.zeros(self.centroids.shape, np.float32)
        dense[sums[0]] = sums[1]
        return dense.reshape(-1)

    def _by_word(self, sums: tuple[np.ndarray, np.ndarray], binary: bool) -> AggregatedWords:
        words, residuals = sums
        residuals = residuals / np.sqrt(np.maximum((residuals**2).sum(1, keepdims=True), _EPS))
        kept = np.linalg.norm(residuals, axis=1) > MIN_NORM
        words, residuals = words[kept], residuals[kept]
        vectors = pack_signs(residuals) if binary else residuals
        return AggregatedWords(words, vectors, self.centroids.shape[1])


def vlad_similarity(left: np.ndarray, right: np.ndarray) -> float:
    """Returns the inner product of two vectors of one width.

    Raises:
      InputError: other widths, a NaN.
    """
    left = as_array("left", left, ("K·D",))
    return float(left @ as_array("right", right, left.shape))


def asmk_similarity(
    left: AggregatedWords,
    right: AggregatedWords,
    *,
    alpha: float = 3.0,
    tau: float = 0.0,
    l2_normalize: bool = True,
) -> float:
    """Sums σ(similarity) over common words; σ(s) = sign(s) |s|^alpha where s > tau, else 0.

    The similarity of two words is the inner product of their vectors, or of their signs
    1 − 2 · Hamming distance / bits, with the bits rounded up to whole bytes from D = 8 on.

    Args:
      left: words of an image.
      right: words of another, of the same codebook and kind.
      alpha: exponent.
      tau: threshold.
      l2_normalize: divide by the root of the product of the numbers of words. As the original has
        it, a regional image of a database is compared without.

    Returns:
      The similarity; −1 if an image has no words.

    Raises:
      InputError: one binary and one not, or other widths.
    """
    require(
        left.binary == right.binary and left.dim == right.dim,
        "Images to compare must be of one kind and width.",
        left=left.vectors,
        right=right.vectors,
    )
    if not len(left) or not len(right):
        return -1.0
    _, rows, columns = np.intersect1d(
        left.words, right.words, assume_unique=True, return_indices=True
    )
    ours, theirs = left.vectors[rows], right.vectors[columns]
    if left.binary:
        num_bits = min(left.dim, 8) * left.vectors.shape[1]
        similarity = 1 - 2 * _BITS[ours ^ theirs].sum(1) / num_bits
    else:
        similarity = (ours * theirs).sum(1).astype(np.float64)
    selected = np.where(similarity > tau, np.sign(similarity) * np.abs(similarity) ** alpha, 0)
    scale = np.sqrt(len(left) * len(right)) if l2_normalize else 1.0
    return float(selected.sum() / scale)


def _normalized(sums: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the words and their residuals scaled so that all together have norm 1."""
    return sums[0], sums[1] / np.sqrt(np.maximum((sums[1] ** 2).sum(), _EPS))
