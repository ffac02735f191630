"""Groups of images that show one place: what verified pairs join, directly or by way of others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from delf_tf.checks import require
from delf_tf.types import Ranking

if TYPE_CHECKING:
    from delf_tf.retrieval.second_stage.rerank import Verifications


def connected(num_images: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the group of each image, int32 [num_images], counted from 0.

    Args:
      num_images: N.
      first: int [P], rows below N.
      second: int [P], the row that each of `first` is joined with.
    """
    from scipy import sparse  # noqa: PLC0415 - slow to import

    graph = sparse.coo_matrix((np.ones(len(first), bool), (first, second)), (num_images,) * 2)
    return sparse.csgraph.connected_components(graph, directed=False)[1]


def each_pair_once(ranking: Ranking) -> Ranking:
    """Leaves out what a query finds of a database image that has found the query before.

    Args:
      ranking: of images among themselves: queries and database are the same, in the same order.

    Returns:
      The ranking of half the results at least, its rows cut to the longest.

    Raises:
      InputError: queries that are not the database.
    """
    require(
        ranking.query_ids == ranking.database_ids,
        "Images must be searched among themselves to pair them.",
        num_queries=len(ranking.query_ids),
        num_images=len(ranking.database_ids),
    )
    rows = np.broadcast_to(np.arange(len(ranking.indices))[:, None], ranking.indices.shape)
    num = max(1, len(ranking.database_ids))
    keys = np.minimum(rows, ranking.indices) * num + np.maximum(rows, ranking.indices)
    keys = np.where((ranking.indices < 0) | (ranking.indices == rows), -1, keys)
    values, places = np.unique(keys, return_index=True)
    kept = np.zeros(keys.size, bool)
    kept[places[values >= 0]] = True
    kept = kept.reshape(keys.shape)
    order = np.argsort(~kept, axis=1, kind="stable")
    width = max(1, int(kept.sum(axis=1).max(initial=0)))
    indices, scores, kept = (
        np.take_along_axis(one, order, axis=1)[:, :width]
        for one in (ranking.indices, ranking.scores, kept)
    )
    return dataclasses.replace(
        ranking, indices=np.where(kept, indices, -1), scores=np.where(kept, scores, 0)
    )


@dataclasses.dataclass(frozen=True)
class Groups:
    """Images that belong together.

    Attributes:
      members: ids of each group of two or more, largest first; within it, first the one that most
        others are joined with.
      duplicate_of: by id of a near-duplicate the image that it repeats, the first of them in the
        ranking's order.
    """

    members: list[list[str]]
    duplicate_of: dict[str, str]


def find_groups(
    ranking: Ranking,
    verifications: Verifications,
    *,
    min_inliers: int,
    duplicate_similarity: float,
    same_content: Sequence[Sequence[str]] = (),
) -> Groups:
    """Joins images by their verified pairs.

    Args:
      ranking: of images among themselves.
      verifications: what `rerank` returned for it.
      min_inliers: that join two images.
      duplicate_similarity: first-stage score from which on a joined pair is a near-duplicate.
      same_content: ids of images whose files are the same; duplicates without verification.
    """
    row_of = {one: row for row, one in enumerate(ranking.database_ids)}
    pairs = [
        (query, row, one.num_inliers, score[row])
        for query, found in enumerate(verifications)
        for score in [dict(zip(ranking.indices[query].tolist(), ranking.scores[query].tolist()))]
        for row, one in found.items()
        if one.num_inliers >= min_inliers
    ]
    pairs += [
        (row_of[some[0]], row_of[other], min_inliers, np.inf)
        for some in same_content
        for other in some[1:]
    ]
    table = np.array(pairs, np.float64).reshape(-1, 4)
    first, second = table[:, :2].astype(np.int64).T
    num = len(ranking.database_ids)
    degrees = np.bincount(np.concatenate([first, second]), minlength=num)
    near = table[:, 3] >= duplicate_similarity
    copies = connected(num, first[near], second[near])
    originals = np.unique(copies, return_index=True)[1][copies]
    ids = ranking.database_ids
    return Groups(
        _members(ids, connected(num, first, second), degrees),
        {ids[row]: ids[one] for row, one in enumerate(originals) if row != one},
    )


def _members(ids: Sequence[str], groups: np.ndarray, degrees: np.ndarray) -> list[list[str]]:
    by_group: dict[int, list[int]] = {}
    for row in np.lexsort((np.arange(len(ids)), -degrees)).tolist():
        by_group.setdefault(int(groups[row]), []).append(row)
    several = [rows for rows in by_group.values() if len(rows) > 1]
    several.sort(key=lambda rows: (-len(rows), min(rows)))
    return [[ids[row] for row in rows] for rows in several]
