"""Orderings that do not depend on how a processor rounds.

One and the same sum rounds differently on different processors, and within one matrix product
according to where a row stands in it. Sums that decide an order are therefore made in float64,
where rounding is near 1e-16, and what differs by less than `TOLERANCE` counts as equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from delf_tf.checks import require

TOLERANCE = 1e-10


def descending(scores: np.ndarray) -> np.ndarray:
    """Returns the positions of float64 [N] scores, largest first, equal scores by position.

    Two scores are equal if steps of at most `TOLERANCE` lead from one to the other.
    """
    order = np.argsort(-scores, kind="stable")
    smaller = -np.diff(scores[order]) > TOLERANCE
    groups = np.cumsum(np.append(False, smaller)[: len(order)])
    return order[np.lexsort((order, groups))]


def first_largest(scores: np.ndarray) -> np.ndarray:
    """Returns int64 [...], the first position of the largest of float64 [..., N], N at least 1."""
    return (scores >= scores.max(axis=-1, keepdims=True) - TOLERANCE).argmax(axis=-1)


def arranged_rows(before: Sequence[str], after: Sequence[str]) -> np.ndarray:
    """Returns the row in `after` of each id of `before`, int64; -1 for one that is not there.

    Raises:
      InputError: an id in `after` twice, or not in `before`.
    """
    rows = {one: row for row, one in enumerate(after)}
    known = rows.keys() <= set(before) and len(rows) == len(after)
    require(known, "Images that are arranged must be in the index, each once.", num=len(after))
    return np.array([rows.get(one, -1) for one in before], np.int64)
