"""Precision and recall of all queries taken together, as DELF's paper scores Google-Landmarks v1.

Noh et al., "Large-Scale Image Retrieval with Attentive Deep Local Features", ICCV 2017, section 5.
One threshold on the score decides for every query what counts as retrieved, so that a system is
also judged by what it returns for queries that have no match at all.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from delf_tf.checks import as_array, require
from delf_tf.types import GroundTruth, Ranking


@dataclasses.dataclass(frozen=True, eq=False)
class PooledCurve:
    """Precision and recall at every threshold, from the strictest on.

    Attributes:
      thresholds: float32 [T], distinct scores, falling.
      precision: float64 [T], share of the retrieved that is right.
      recall: float64 [T], share of the right that is retrieved.
      micro_ap: area under the curve, Σ (recall_t − recall_{t−1}) · precision_t, in 0..1; NaN
        without positives.
      num_queries: queries.
      num_distractor_queries: those without a positive.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    micro_ap: float
    num_queries: int
    num_distractor_queries: int


def pooled_precision_recall(
    ranking: Ranking,
    ground_truth: GroundTruth,
    *,
    scores: np.ndarray | None = None,
    results_per_query: int | None = None,
) -> PooledCurve:
    """Scores all queries by common thresholds.

    With R_q the results of query q above the threshold and T_q the right ones among them,
    precision = Σ_q |T_q| / Σ_q |R_q| and recall = Σ_q |T_q| / Σ_q |positives of q|.

    Args:
      ranking: Q rows.
      ground_truth: Q entries; junk neither helps nor hurts.
      scores: float [Q, K], what the thresholds apply to, such as inlier counts; None takes the
        ranking's.
      results_per_query: of each query only this many results, junk aside, are retrieved, and no
        more positives are expected; None takes all. 1 asks for the best image alone.

    Raises:
      InputError: other number of queries, scores of another shape.
    """
    require(
        len(ground_truth) == len(ranking.query_ids),
        "ground_truth must have one entry a query of the ranking.",
        num_entries=len(ground_truth),
        num_queries=len(ranking.query_ids),
    )
    require(
        results_per_query is None or results_per_query >= 1,
        "results_per_query must be 1 or more.",
        results_per_query=results_per_query,
    )
    scores = ranking.scores if scores is None else scores
    scores = as_array("scores", scores, ranking.indices.shape, np.float32)
    found_scores, found_right, num_positives = [], [], []
    for row, values, positives, junk in zip(
        ranking.indices, scores, ground_truth.positives, ground_truth.junk
    ):
        kept = np.flatnonzero((row >= 0) & ~np.isin(row, junk))[:results_per_query]
        found_scores.append(values[kept])
        found_right.append(np.isin(row[kept], positives))
        expected = len(np.unique(positives))
        num_positives.append(min(expected, results_per_query or expected))
    return _curve(found_scores, found_right, num_positives)


def _curve(
    scores: list[np.ndarray], right: list[np.ndarray], num_positives: list[int]
) -> PooledCurve:
    all_scores = np.concatenate([*scores, np.zeros(0, np.float32)])
    order = np.argsort(-all_scores, kind="stable")
    all_scores = all_scores[order]
    num_right = np.cumsum(np.concatenate([*right, np.zeros(0, bool)])[order])
    # A threshold retrieves all results of its score together.
    last = np.flatnonzero(np.append(np.diff(all_scores) != 0, True)[: len(all_scores)])
    total = sum(num_positives)
    precision = num_right[last] / (last + 1)
    recall = num_right[last] / total if total else np.full(len(last), np.nan)
    return PooledCurve(
        thresholds=all_scores[last],
        precision=precision,
        recall=recall,
        micro_ap=float((np.diff(recall, prepend=0) * precision).sum()) if total else float("nan"),
        num_queries=len(num_positives),
        num_distractor_queries=sum(not one for one in num_positives),
    )
