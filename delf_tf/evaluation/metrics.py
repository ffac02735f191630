"""Average precision and its kin by the protocol of the revisited Oxford and Paris benchmarks.

Radenović et al., "Revisiting Oxford and Paris: Large-Scale Image Retrieval Benchmarking", CVPR
2018.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from delf_tf.checks import as_array, require
from delf_tf.types import GroundTruth, Ranking

DEFAULT_KS = (1, 5, 10)


@dataclasses.dataclass(frozen=True, eq=False)
class RankingMetrics:
    """What a ranking is worth; every figure lies in 0..1.

    Queries without positives are not scored: NaN in the per-query arrays, left out of the means.
    When no query is scored the means are NaN too.

    Attributes:
      mAP: mean average precision over the scored queries.
      mP: mean precision at k, by k.
      mR: mean recall at k, by k.
      query_ids: Q ids, the rows of the arrays below.
      per_query_ap: float64 [Q].
      per_query_precision: float64 [Q, number of ks].
      per_query_recall: float64 [Q, number of ks].
      num_queries: number of scored queries.
    """

    mAP: float  # noqa: N815
    mP: dict[int, float]  # noqa: N815
    mR: dict[int, float]  # noqa: N815
    query_ids: tuple[str, ...]
    per_query_ap: np.ndarray
    per_query_precision: np.ndarray
    per_query_recall: np.ndarray
    num_queries: int


def average_precision(positions: np.ndarray, num_positives: int) -> float:
    """Returns the area under the precision-recall curve by the trapezoid rule.

    With the positives found at 0-based positions r_0 < r_1 < …,
    AP = Σ_i (left_i + right_i) / 2 / num_positives, where left_i = i / r_i (1 at r_i = 0) and
    right_i = (i + 1) / (r_i + 1) are the precisions just before and at r_i.

    Example: positives at 0 and 2 of 2: ((1 + 1) / 2 + (1/2 + 2/3) / 2) / 2 = 0.7917.

    Args:
      positions: integer [P], ascending, distinct, junk already removed; a positive that the ranking
        does not hold is left out and adds nothing.
      num_positives: number of positives that exist, at least P.

    Returns:
      AP in 0..1; NaN if `num_positives` is 0.

    Raises:
      InputError: positions that repeat, descend or are negative, or more of them than positives.
    """
    positions = as_array("positions", positions, ("P",), np.int64)
    require(
        len(positions) <= num_positives,
        "num_positives must be at least the number of positions.",
        num_positives=num_positives,
        num_positions=len(positions),
    )
    ascending = bool((np.diff(positions, prepend=-1) > 0).all())
    require(ascending, "positions must be 0 or more and ascend.", positions=positions)
    if not num_positives:
        return float("nan")
    found = np.arange(len(positions), dtype=np.float64)
    left = np.where(positions == 0, 1.0, found / np.maximum(positions, 1))
    right = (found + 1) / (positions + 1)
    return float(((left + right) / 2).sum() / num_positives)


def evaluate_ranking(
    ranking: Ranking, ground_truth: GroundTruth, ks: Sequence[int] = DEFAULT_KS
) -> RankingMetrics:
    """Scores a ranking by the revisited protocol.

    Junk images are taken out of each row first, as if the database did not hold them. Precision at
    k is over min(k, position of the last positive that was found), so that a query with three
    positives can reach 1 at k = 10; recall at k is over all positives. Rankings may be cut short:
    positives that a row does not hold add nothing.

    Args:
      ranking: Q rows.
      ground_truth: Q entries for the same queries, rows of `ranking.database_ids`.
      ks: the cut-offs of precision and recall, each at least 1.

    Raises:
      InputError: other number of queries, rows outside the database, a k below 1.
    """
    _check_ground_truth(ranking, ground_truth)
    ks = tuple(int(k) for k in ks)
    require(all(k >= 1 for k in ks), "ks must be 1 or more.", ks=ks)
    num = len(ranking.query_ids)
    ap = np.full(num, np.nan)
    precision, recall = np.full((2, num, len(ks)), np.nan)
    for row, (positives, junk) in enumerate(zip(ground_truth.positives, ground_truth.junk)):
        num_positives = len(np.unique(positives))
        if num_positives:
            positions = positive_positions(ranking.indices[row], positives, junk)
            ap[row] = average_precision(positions, num_positives)
            precision[row] = [_precision(positions, k) for k in ks]
            recall[row] = [np.searchsorted(positions, k) / num_positives for k in ks]
    return RankingMetrics(
        mAP=_mean(ap),
        mP={k: _mean(precision[:, column]) for column, k in enumerate(ks)},
        mR={k: _mean(recall[:, column]) for column, k in enumerate(ks)},
        query_ids=ranking.query_ids,
        per_query_ap=ap,
        per_query_precision=precision,
        per_query_recall=recall,
        num_queries=int((~np.isnan(ap)).sum()),
    )


def positive_positions(row: np.ndarray, positives: np.ndarray, junk: np.ndarray) -> np.ndarray:
    """Returns the 0-based positions of the positives in a ranking's row once junk is taken out.

    Args:
      row: int64 [K], database rows, best first, -1 for none.
      positives: int64 [P].
      junk: int64 [J].

    Returns:
      int64 [F], ascending, F at most P.
    """
    kept = row[(row >= 0) & ~np.isin(row, junk)]
    return np.flatnonzero(np.isin(kept, positives))


def recall_at_k(
    ranking: Ranking, ground_truth: GroundTruth, ks: Sequence[int] = (1, 5, 10, 100)
) -> dict[int, float]:
    """Returns the share of queries with a positive among the first k once junk is taken out, by k.

    The "recall@k" of metric-learning benchmarks; queries without positives are left out, and
    without any other the result is NaN.

    Raises:
      InputError: other number of queries, a k below 1.
    """
    require(all(k >= 1 for k in ks), "ks must be 1 or more.", ks=tuple(ks))
    _check_ground_truth(ranking, ground_truth)
    first = []
    for row, positives, junk in zip(ranking.indices, ground_truth.positives, ground_truth.junk):
        if len(positives):
            positions = positive_positions(row, positives, junk)
            first.append(positions[0] if len(positions) else np.inf)
    return {k: float(np.mean(np.array(first) < k)) if first else float("nan") for k in ks}


def mean_by_place(per_query_ap: np.ndarray, places: Sequence[str]) -> float:
    """Returns AP averaged within each place, then over places, so that every place weighs the same.

    Args:
      per_query_ap: float [Q]; NaN for queries that are not scored.
      places: Q names.

    Returns:
      The mean in 0..1; NaN if no query is scored.

    Raises:
      InputError: other number of places than of queries.
    """
    per_query_ap = np.asarray(per_query_ap, np.float64)
    require(
        per_query_ap.ndim == 1 and len(places) == len(per_query_ap),
        "places must name one place a query.",
        num_places=len(places),
        per_query_ap=per_query_ap,
    )
    scored: dict[str, list[float]] = {}
    for place, ap in zip(places, per_query_ap):
        if not np.isnan(ap):
            scored.setdefault(place, []).append(float(ap))
    return _mean(np.array([np.mean(aps) for aps in scored.values()], np.float64))


def _precision(positions: np.ndarray, k: int) -> float:
    if not len(positions):
        return 0.0
    depth = min(k, int(positions[-1]) + 1)
    return float(np.searchsorted(positions, depth)) / depth


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def _check_ground_truth(ranking: Ranking, ground_truth: GroundTruth) -> None:
    require(
        len(ground_truth) == len(ranking.query_ids),
        "ground_truth must have one entry a query of the ranking.",
        num_entries=len(ground_truth),
        num_queries=len(ranking.query_ids),
    )
    limit = len(ranking.database_ids)
    for row, rows in enumerate(zip(ground_truth.positives, ground_truth.junk)):
        both = np.concatenate(rows)
        require(
            not both.size or (both.min() >= 0 and both.max() < limit),
            f"ground_truth must name rows of the database, 0..{limit - 1}.",
            hint="Was the ranking made on another database?",
            query=ranking.query_ids[row],
            rows=both,
        )
