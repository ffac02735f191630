"""Operations on rankings: leaving the query itself out, cutting, re-ordering ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from delf_tf.checks import require
from delf_tf.types import Ranking

# Whether the image whose id is the query's is the query itself; or by query id which images are.
Selves = bool | Mapping[str, Sequence[str]]


def num_selves(selves: Selves) -> int:
    """Returns how many images a row of `without_self` can lose."""
    return int(selves) if isinstance(selves, bool) else max(map(len, selves.values()), default=0)


def without_self(ranking: Ranking, selves: Selves = True) -> Ranking:
    """Returns the ranking without the images that are the query itself.

    Args:
      ranking: of a collection in which every image queries the rest, or of queries some of which
        are images of the database too.
      selves: True: the image whose id is the query's; or by query id the ids of such images.

    Returns:
      Rows that lose an image move up and end in -1.
    """
    named = {} if isinstance(selves, bool) else selves
    asked = set(ranking.query_ids).union(*named.values())
    rows = {one: row for row, one in enumerate(ranking.database_ids) if one in asked}
    if isinstance(selves, bool):
        own = np.array([rows.get(one, -2) for one in ranking.query_ids], np.int64)
        lost = ranking.indices == own[:, None]
    else:
        lost = np.zeros(ranking.indices.shape, bool)
        for query, one in enumerate(ranking.query_ids):
            lost[query] = np.isin(
                ranking.indices[query], [rows.get(x, -2) for x in named.get(one, ())]
            )
    order = np.argsort(lost, axis=1, kind="stable")
    indices = np.take_along_axis(np.where(lost, -1, ranking.indices), order, axis=1)
    scores = np.take_along_axis(ranking.scores, order, axis=1)
    return dataclasses.replace(ranking, indices=indices, scores=scores, left_out=named)


def cut(ranking: Ranking, k: int) -> Ranking:
    """Returns the first `k` results of each query."""
    require(k >= 0, "k must be 0 or more.", k=k)
    indices, scores = ranking.indices[:, :k], ranking.scores[:, :k]
    return dataclasses.replace(ranking, indices=indices, scores=scores)


def aligned(ranking: Ranking, query_ids: tuple[str, ...], database_ids: tuple[str, ...]) -> Ranking:
    """Returns the ranking with its queries and its database in another's order.

    Args:
      ranking: must hold every one of `query_ids`; further queries are left out.
      query_ids: the new order of the queries.
      database_ids: the new order of the database; every image of the ranking, perhaps more.

    Raises:
      InputError: a query that the ranking lacks, an image that `database_ids` lacks.
    """
    rows = {one: row for row, one in enumerate(ranking.query_ids)}
    missing = [one for one in query_ids if one not in rows]
    require(
        not missing,
        "The ranking must hold every query.",
        missing=missing[:3],
        num_missing=len(missing),
    )
    new_row = {one: row for row, one in enumerate(database_ids)}
    unknown = [one for one in ranking.database_ids if one not in new_row]
    require(not unknown, "database_ids must hold every image of the ranking.", unknown=unknown[:3])
    # The last entry is where an index of -1 looks.
    moved = np.array([*(new_row[one] for one in ranking.database_ids), -1], np.int64)
    order = [rows[one] for one in query_ids]
    return Ranking(
        query_ids,
        database_ids,
        moved[ranking.indices[order]],
        ranking.scores[order],
        ranking.left_out,
    )
