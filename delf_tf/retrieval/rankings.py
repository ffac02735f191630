"""What can be done to a ranking without looking at an image."""

from __future__ import annotations

import numpy as np

from delf_tf.checks import require
from delf_tf.types import Ranking


def without_self(ranking: Ranking) -> Ranking:
    """Returns the ranking without the image whose id is the query's own.

    For a collection in which every image queries the rest. Rows that lose an image move up and
    end in -1.
    """
    asked = set(ranking.query_ids)
    rows = {one: row for row, one in enumerate(ranking.database_ids) if one in asked}
    own = np.array([rows.get(one, -2) for one in ranking.query_ids], np.int64)
    lost = ranking.indices == own[:, None]
    order = np.argsort(lost, axis=1, kind="stable")
    indices = np.take_along_axis(np.where(lost, -1, ranking.indices), order, axis=1)
    scores = np.take_along_axis(ranking.scores, order, axis=1)
    return Ranking(ranking.query_ids, ranking.database_ids, indices, scores)


def cut(ranking: Ranking, k: int) -> Ranking:
    """Returns the first `k` results of each query."""
    require(k >= 0, "k must be 0 or more.", k=k)
    return Ranking(
        ranking.query_ids, ranking.database_ids, ranking.indices[:, :k], ranking.scores[:, :k]
    )
