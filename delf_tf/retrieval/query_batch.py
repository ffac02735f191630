"""Queries of local features: checks, blocks, and rankings from their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from delf_tf.checks import require
from delf_tf.retrieval.ordering import TOLERANCE, descending
from delf_tf.types import Ranking

Queries = Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]
T = TypeVar("T")

# Queries whose descriptors are quantised together: enough to feed every core.
QUERY_BLOCK = 16


def checked_queries(
    queries: Queries, check: Callable[[np.ndarray, str], np.ndarray]
) -> list[tuple[str, np.ndarray]]:
    """Returns the queries as (id, checked descriptors) pairs.

    Args:
      queries: mapping of id to descriptors, or pairs of them.
      check: takes descriptors and the id for the error, returns float32 [N, D] or raises.

    Raises:
      InputError: an id twice, or what `check` raises.
    """
    items = queries.items() if isinstance(queries, Mapping) else queries
    pairs = []
    for item in items:
        require(
            isinstance(item, tuple) and len(item) == 2,
            "queries must be a mapping of id to descriptors, or (id, descriptors) pairs.",
            item=item,
        )
        pairs.append((str(item[0]), check(item[1], str(item[0]))))
    repeated = len({one for one, _ in pairs}) != len(pairs)
    require(not repeated, "queries must have unique ids.", ids=[one for one, _ in pairs])
    return pairs


def blocks(items: Sequence[T], size: int = QUERY_BLOCK) -> Iterator[Sequence[T]]:
    """Yields runs of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def checked_k(k: int | None, num_images: int) -> int:
    """Returns the number of results a query; None stands for all images.

    Raises:
      InputError: no images, k not a whole number from 1 to the number of images.
    """
    require(num_images > 0, "The index must hold images.", hint="Add some first.")
    k = num_images if k is None else k
    require(
        isinstance(k, (int, np.integer)) and 1 <= k <= num_images,
        "k must be a whole number from 1 to the number of images in the index.",
        k=k,
        num_images=num_images,
    )
    return int(k)


def rank_scores(scores: np.ndarray, k: int) -> np.ndarray:
    """Returns the rows of the k largest of float64 [N], largest first, equal ones by row."""
    if k < len(scores):
        # A partition alone would choose among equal scores at the cut as it pleases.
        cut = np.partition(scores, len(scores) - k)[len(scores) - k]
        rows = np.flatnonzero(scores >= cut - TOLERANCE)
    else:
        rows = np.arange(len(scores))
    return rows[descending(scores[rows])][:k]


def make_ranking(
    pairs: Sequence[tuple[str, np.ndarray]],
    ids: Sequence[str],
    k: int,
    scores: Iterable[np.ndarray],
    *,
    needs_score: bool = False,
) -> Ranking:
    """Returns the ranking of the queries.

    Args:
      pairs: Q queries; one without descriptors gets no results.
      ids: the N database ids.
      k: results a query.
      scores: Q arrays float64 [N], in the order of `pairs`; they are consumed one by one.
      needs_score: leave out images whose score is not positive.
    """
    indices = np.full((len(pairs), k), -1, np.int64)
    kept = np.zeros((len(pairs), k), np.float32)
    for row, ((_, descriptors), one) in enumerate(zip(pairs, scores)):
        if len(descriptors):
            best = rank_scores(one, k)
            best = best[one[best] > 0] if needs_score else best
            indices[row, : len(best)] = best
            kept[row, : len(best)] = one[best]
    return Ranking(tuple(one for one, _ in pairs), tuple(ids), indices, kept)
