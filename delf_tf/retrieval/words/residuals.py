"""Residuals of descriptors to their visual words, summed by word."""

from __future__ import annotations

import numpy as np

from delf_tf.retrieval.words import loops


def residuals_by_word(
    descriptors: np.ndarray, words: np.ndarray, centroids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sums the residuals of each visual word.

    Args:
      descriptors: float32 [N, D].
      words: int64 [N, A], the words that each descriptor is assigned to.
      centroids: float32 [K, D].

    Returns:
      The words that occur, int64 [W] ascending, and the sums over their descriptors of
      descriptor − centroid, float32 [W, D].
    """
    flat = words.reshape(-1)
    order = np.argsort(flat, kind="stable")
    unique, starts = np.unique(flat[order], return_index=True)
    sums = np.zeros((len(unique), centroids.shape[1]), np.float32)
    if len(unique):
        rows = order // words.shape[1]
        ends = np.append(starts, len(flat)).astype(np.int64)
        loops.sum_residuals(descriptors, centroids, (rows, unique, ends), sums)
    return unique, sums


def pack_signs(residuals: np.ndarray) -> np.ndarray:
    """Returns uint8 [W, ceil(D / 8)]: a bit for each positive item of [W, D], highest bit first."""
    return np.packbits(residuals > 0, axis=1)
