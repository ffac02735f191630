"""Precision over recall, averaged over queries, for plots."""

from __future__ import annotations

import numpy as np

from delf_tf.checks import require
from delf_tf.evaluation.metrics import positive_positions
from delf_tf.types import GroundTruth, Ranking


def mean_precision_at_recall(
    ranking: Ranking, ground_truth: GroundTruth, num_points: int = 101
) -> tuple[np.ndarray, np.ndarray]:
    """Returns recall levels and the interpolated precision there, its mean over the scored queries.

    A query's interpolated precision at a recall level is the highest that any cut of its ranking
    with at least that recall has; 0 where no cut reaches it. (Manning et al., Introduction to
    Information Retrieval, 2008, section 8.4.)

    Args:
      ranking: Q queries.
      ground_truth: Q entries; queries without positives are left out.
      num_points: recall levels, evenly from 0 to 1.

    Returns:
      float64 [num_points] recall, float64 [num_points] precision; NaN if no query is scored.

    Raises:
      InputError: other number of queries, fewer than two points.
    """
    require(num_points >= 2, "num_points must be 2 or more.", num_points=num_points)
    require(
        len(ground_truth) == len(ranking.query_ids),
        "ground_truth must have one entry a query of the ranking.",
        num_entries=len(ground_truth),
        num_queries=len(ranking.query_ids),
    )
    levels = np.linspace(0, 1, num_points)
    curves = [
        _precision(positive_positions(row, positives, junk), len(positives), levels)
        for row, positives, junk in zip(ranking.indices, ground_truth.positives, ground_truth.junk)
        if len(positives)
    ]
    return levels, np.mean(curves, axis=0) if curves else np.full(num_points, np.nan)


def _precision(positions: np.ndarray, num_positives: int, levels: np.ndarray) -> np.ndarray:
    found = np.arange(1, len(positions) + 1)
    best = np.maximum.accumulate((found / (positions + 1))[::-1])[::-1]
    # The first cut that reaches a level; 1e-9 for levels that are not exact in binary.
    at = np.searchsorted(found / num_positives, levels - 1e-9)
    return np.append(best, 0.0)[at]
