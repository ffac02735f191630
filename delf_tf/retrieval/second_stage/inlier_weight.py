"""How much inliers should weigh beside the first stage's score: fitted on labelled rankings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from delf_tf.checks import require
from delf_tf.evaluation.metrics import evaluate_ranking
from delf_tf.matching.calibration import ChanceInliers
from delf_tf.retrieval.ordering import first_largest
from delf_tf.retrieval.second_stage.rerank import Verifications, make_head, reorder
from delf_tf.retrieval.second_stage.verification_files import VerifiedHead
from delf_tf.types import GroundTruth, Ranking, Verification

WEIGHTS = (0.0, *(float(w) for w in np.geomspace(0.001, 10, 25)))


@dataclasses.dataclass(frozen=True)
class FittedWeight:
    """The weight of inliers in the score "combined", and how it was found.

    Attributes:
      weight: the one with the largest mAP, the smallest among equals.
      mAP: with it, on the rankings that it was fitted to.
      tried: (weight, mAP) for every weight.
      num_queries: queries that were scored.
    """

    weight: float
    mAP: float  # noqa: N815
    tried: tuple[tuple[float, float], ...]
    num_queries: int


def fit_weight(
    ranking: Ranking,
    verifications: Verifications,
    ground_truth: GroundTruth,
    *,
    min_inliers: int | ChanceInliers = 0,
    weights: Sequence[float] = WEIGHTS,
) -> FittedWeight:
    """Finds the weight for `rerank(score="combined", weight=…)`.

    Fit on other queries than those that are reported: one number can hardly overfit, but it is
    still chosen by their answers.

    Args:
      ranking: the first stage's result, before re-ranking.
      verifications: what `rerank` returned for it.
      ground_truth: of its queries.
      min_inliers: as in `rerank`.
      weights: to be tried.

    Raises:
      InputError: verifications of another number of queries, no query with positives, no weights.
    """
    require(len(weights) > 0, "weights must not be empty.", weights=weights)
    require(
        len(verifications) == len(ranking.query_ids),
        "verifications must have one entry a query of the ranking.",
        num_entries=len(verifications),
        num_queries=len(ranking.query_ids),
    )
    heads = []
    for row, found in zip(ranking.indices, verifications):
        heads.append((_places(row, found), _verified(found)))
    tried, num_queries = [], 0
    for weight in weights:
        metrics = evaluate_ranking(
            _combined(ranking, heads, min_inliers, float(weight)), ground_truth
        )
        num_queries = metrics.num_queries
        tried.append((float(weight), metrics.mAP))
    require(num_queries > 0, "At least one query must have positives.", num_queries=num_queries)
    tried_by_weight = sorted(tried)
    best = tried_by_weight[first_largest(np.array([mAP for _, mAP in tried_by_weight]))]
    return FittedWeight(*best, tuple(tried), num_queries)


def held_out_map(
    ranking: Ranking,
    verifications: Verifications,
    ground_truth: GroundTruth,
    groups: Sequence[str],
    *,
    min_inliers: int | ChanceInliers = 0,
    weights: Sequence[float] = WEIGHTS,
) -> float | None:
    """Returns mAP when each half of the queries is scored with the weight fitted on the other.

    Args:
      ranking: the first stage's result, before re-ranking.
      verifications: what `rerank` returned for it.
      ground_truth: of its queries.
      groups: one a query; queries of a group, such as a place's, fall into the same half.
      min_inliers: as in `rerank`.
      weights: to be tried.

    Returns:
      The mean over all queries with positives; None where a half has none.
    """
    names = {name: number % 2 for number, name in enumerate(sorted(set(groups)))}
    halves = [[q for q, name in enumerate(groups) if names[name] == half] for half in (0, 1)]
    if not all(any(len(ground_truth.positives[q]) for q in half) for half in halves):
        return None
    parts = [_part(ranking, verifications, ground_truth, half) for half in halves]
    total, num_queries = 0.0, 0
    for own, other in ((0, 1), (1, 0)):
        weight = fit_weight(*parts[other], min_inliers=min_inliers, weights=weights).weight
        scored = fit_weight(*parts[own], min_inliers=min_inliers, weights=[weight])
        total += scored.mAP * scored.num_queries
        num_queries += scored.num_queries
    return total / num_queries


def _part(
    ranking: Ranking, verifications: Verifications, truth: GroundTruth, rows: Sequence[int]
) -> tuple[Ranking, Verifications, GroundTruth]:
    """Returns all three for some of the queries."""
    some = Ranking(
        tuple(ranking.query_ids[row] for row in rows),
        ranking.database_ids,
        ranking.indices[list(rows)],
        ranking.scores[list(rows)],
    )
    kept = GroundTruth(
        tuple(truth.positives[row] for row in rows), tuple(truth.junk[row] for row in rows)
    )
    return some, [verifications[row] for row in rows], kept


def _combined(
    ranking: Ranking,
    heads: Sequence[tuple[np.ndarray, VerifiedHead]],
    min_inliers: int | ChanceInliers,
    weight: float,
) -> Ranking:
    made = [
        make_head(verified, ranking.scores[query, places], min_inliers)
        for query, (places, verified) in enumerate(heads)
    ]
    return reorder(ranking, [places for places, _ in heads], made, "combined", weight)


def _places(row: np.ndarray, found: Mapping[int, Verification]) -> np.ndarray:
    """Returns where in a ranking's row the verified images stand."""
    position = {int(one): place for place, one in enumerate(row)}
    missing = [one for one in found if one not in position]
    require(not missing, "The ranking must hold the verified images.", missing=missing[:3])
    return np.array([position[one] for one in found], np.int64)


def _verified(found: Mapping[int, Verification]) -> VerifiedHead:
    rows = np.fromiter(found, np.int64, len(found))
    return VerifiedHead(rows, np.zeros(len(found), np.float32), tuple(found.values()))
