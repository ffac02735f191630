"""Inner loops over posting lists, compiled to run without the GIL.

Each is deterministic: sums run in a fixed order, so equal input gives equal scores.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from delf_tf.matching.kernels.compilation import entry

Lists = tuple[np.ndarray, np.ndarray, np.ndarray]


def _count_bits(_context: Any, _value: Any) -> Any:
    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), build


popcount: Any = intrinsic(_count_bits)


@numba.njit(nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _inner_product(left: np.ndarray, right: np.ndarray) -> np.float32:
    total = np.float32(0)
    for column in range(len(left)):
        total += left[column] * right[column]
    return total


@entry
def copy_lists(lists: Lists, target: Lists) -> None:
    """Copies every list to the start of its (longer) place in `target`."""
    offsets, owners, payload = lists
    new_offsets, new_owners, new_payload = target
    for index in range(len(offsets) - 1):
        shift = new_offsets[index] - offsets[index]
        for row in range(offsets[index], offsets[index + 1]):
            new_owners[row + shift] = owners[row]
            for column in range(payload.shape[1]):
                new_payload[row + shift, column] = payload[row, column]


@entry
def scatter(postings: Lists, cursor: np.ndarray, target: Lists) -> None:
    """Writes each posting (list, owner, payload) at its list's cursor, which moves on."""
    lists, owners, payload = postings
    _, new_owners, new_payload = target
    for row in range(len(lists)):
        place = cursor[lists[row]]
        cursor[lists[row]] += 1
        new_owners[place] = owners[row]
        for column in range(payload.shape[1]):
            new_payload[place, column] = payload[row, column]


@entry
def owners_ascend(offsets: np.ndarray, owners: np.ndarray) -> bool:
    """Tells whether owners rise strictly within every list."""
    for index in range(len(offsets) - 1):
        for row in range(offsets[index] + 1, offsets[index + 1]):
            if owners[row] <= owners[row - 1]:
                return False
    return True


@entry
def sum_weights(
    offsets: np.ndarray, owners: np.ndarray, weights: np.ndarray, sums: np.ndarray
) -> None:
    """Adds each list's weight to the sum of every owner that it holds."""
    for index in range(len(offsets) - 1):
        for row in range(offsets[index], offsets[index + 1]):
            sums[owners[row]] += weights[index]


@entry
def sum_residuals(
    descriptors: np.ndarray, centroids: np.ndarray, groups: Lists, sums: np.ndarray
) -> None:
    """Sums descriptor − centroid over each word's descriptors, in float32 and row order.

    Args:
      descriptors: float32 [N, D].
      centroids: float32 [K, D].
      groups: (rows int64 [A], words int64 [W], starts int64 [W + 1]): word i has the descriptors
        rows[starts[i]:starts[i + 1]].
      sums: float32 [W, D] of zeros, filled here.
    """
    rows, words, starts = groups
    for index in range(len(words)):
        word = words[index]
        for at in range(starts[index], starts[index + 1]):
            row = rows[at]
            for column in range(descriptors.shape[1]):
                sums[index, column] += descriptors[row, column] - centroids[word, column]


@entry
def score_binary(lists: Lists, query: Lists, kernel: np.ndarray, scores: np.ndarray) -> None:
    """Adds weight · kernel[Hamming distance] of every common word to its owners' scores.

    Args:
      lists: (offsets int64 [K + 1], owners uint32 [P], signatures uint64 [P, S]).
      query: (words int64 [W], signatures uint64 [W, S], weights float64 [W]).
      kernel: float64 [64 · S + 1], the kernel's value at each Hamming distance.
      scores: float64 [images], added to.
    """
    offsets, owners, signatures = lists
    words, asked, weights = query
    for index in range(len(words)):
        for row in range(offsets[words[index]], offsets[words[index] + 1]):
            distance = numba.uint64(0)
            for column in range(signatures.shape[1]):
                distance += popcount(signatures[row, column] ^ asked[index, column])
            scores[owners[row]] += weights[index] * kernel[distance]


@entry
def score_real(lists: Lists, query: Lists, limits: tuple[float, float], scores: np.ndarray) -> None:
    """Adds weight · sign(s)|s|^alpha, s the inner product of residuals, where s ≥ threshold.

    Args:
      lists: (offsets int64 [K + 1], owners uint32 [P], residuals float32 [P, D]).
      query: (words int64 [W], residuals float32 [W, D], weights float64 [W]).
      limits: (alpha, threshold).
      scores: float64 [images], added to.
    """
    offsets, owners, residuals = lists
    words, asked, weights = query
    alpha, threshold = limits
    for index in range(len(words)):
        for row in range(offsets[words[index]], offsets[words[index] + 1]):
            similarity = _inner_product(residuals[row], asked[index])
            if similarity >= threshold:
                value = abs(similarity) ** alpha
                scores[owners[row]] += weights[index] * (value if similarity >= 0 else -value)
