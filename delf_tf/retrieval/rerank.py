"""The second stage: the head of a ranking, verified geometrically and put in a new order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from delf_tf import matching
from delf_tf.checks import require, require_choice
from delf_tf.progress import Progress
from delf_tf.types import LocalFeatures, Ranking, Verification

FeatureReader = Callable[[str], LocalFeatures]
# For each query, what was found for the database rows that were verified, in first-stage order.
Verifications = tuple[Mapping[int, Verification], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """The verified images of one query, in first-stage order.

    Attributes:
      rows: int64 [C], rows of the database.
      first_stage: float32 [C], their scores in the ranking.
      num_inliers: int64 [C]; counts that are taken for chance are 0.
      similarity: float32 [C], inlier-weighted similarity; 0 for chance.
    """

    rows: np.ndarray
    first_stage: np.ndarray
    num_inliers: np.ndarray
    similarity: np.ndarray


def _inliers(head: Head, weight: float) -> np.ndarray:
    return head.num_inliers.astype(np.float64)


def _weighted(head: Head, weight: float) -> np.ndarray:
    return head.similarity.astype(np.float64)


def _combined(head: Head, weight: float) -> np.ndarray:
    return head.first_stage + weight * np.log1p(head.num_inliers)


# What the head is sorted by; a new score is a function of (Head, weight) and a row here.
SCORES: dict[str, Callable[[Head, float], np.ndarray]] = {
    "inliers": _inliers,
    "weighted": _weighted,
    "combined": _combined,
}


def rerank(
    ranking: Ranking,
    query_features: FeatureReader,
    database_features: FeatureReader,
    *,
    num_candidates: int = 100,
    num_threads: int | None = None,
    min_inliers: int = 0,
    score: str = "inliers",
    weight: float = 0.1,
    skip: Sequence[np.ndarray] | None = None,
    **verify: Any,
) -> tuple[Ranking, Verifications]:
    """Verifies the head of every row and sorts it.

    The head keeps its place before the rest: an image that was not verified never passes one that
    was, nor the other way round. Equal scores keep the first stage's order, and so do images with
    fewer inliers than `min_inliers`, which chance alone reaches. Scores stay those of the first
    stage.

    Args:
      ranking: the first stage's result.
      query_features: gives a query's local features by its id.
      database_features: gives a database image's local features by its id.
      num_candidates: images verified a query.
      num_threads: of `delf_tf.matching.verify_many`; None takes every core.
      min_inliers: counts below this are taken for chance.
      score: a row of SCORES: "inliers", the count; "weighted", the sum of the inliers' descriptor
        similarities; "combined", first-stage score + `weight` · ln(1 + inliers).
      weight: of the inliers in "combined"; `fit_weight` finds it.
      skip: for each query, database rows that are passed over when candidates are chosen. None, the
        default, is blind re-ranking; the junk of a ground truth gives the figures as published.
      **verify: further arguments of `delf_tf.matching.verify_many`.

    Returns:
      The new ranking, and for each query the verifications by database row.

    Raises:
      InputError: an argument out of range, features of different widths.
    """
    require_choice("score", score, SCORES)
    require(num_candidates >= 0, "num_candidates must be 0 or more.", num_candidates=num_candidates)
    require(
        skip is None or len(skip) == len(ranking.query_ids),
        "skip must have one entry a query.",
        num_entries=len(skip or ()),
        num_queries=len(ranking.query_ids),
    )
    verify_many = cast("Callable[..., Sequence[Verification]]", matching.verify_many)
    indices, scores = ranking.indices.copy(), ranking.scores.copy()
    found: list[Mapping[int, Verification]] = []
    with Progress(len(indices), "queries", "Verifying") as progress:
        for row, query_id in enumerate(ranking.query_ids):
            places = _candidates(indices[row], num_candidates, None if skip is None else skip[row])
            rows = indices[row, places]
            query = query_features(query_id)
            databases = [database_features(ranking.database_ids[one]) for one in rows]
            verified = verify_many(query, databases, num_threads=num_threads, **verify)
            head = make_head(
                rows=rows,
                first_stage=scores[row, places],
                query=query,
                databases=databases,
                verifications=verified,
                min_inliers=min_inliers,
            )
            order = head_order(head, score, weight)
            indices[row], scores[row] = _move_head(indices[row], scores[row], places[order])
            found.append(dict(zip(rows.tolist(), verified)))
            progress.update()
    return Ranking(ranking.query_ids, ranking.database_ids, indices, scores), tuple(found)


def make_head(
    *,
    rows: np.ndarray,
    first_stage: np.ndarray,
    query: LocalFeatures,
    databases: Sequence[LocalFeatures],
    verifications: Sequence[Verification],
    min_inliers: int,
) -> Head:
    """Returns what the scores need of one query's C verifications.

    Counts below `min_inliers` become 0, as chance.
    """
    counts = np.array([one.num_inliers for one in verifications], np.int64)
    similarity = np.array(
        [
            inlier_similarity(query, database, one)
            for database, one in zip(databases, verifications)
        ],
        np.float32,
    )
    real = counts >= max(min_inliers, 1)
    return Head(rows, first_stage, np.where(real, counts, 0), np.where(real, similarity, 0))


def inlier_similarity(
    query: LocalFeatures, database: LocalFeatures, verification: Verification
) -> float:
    """Returns the sum over the inliers of their descriptors' inner product, negative ones as 0."""
    pairs = verification.matches[verification.inlier_mask]
    first = query.descriptors[pairs[:, 0]].astype(np.float32)
    second = database.descriptors[pairs[:, 1]].astype(np.float32)
    return float(np.maximum(np.einsum("md,md->m", first, second), 0).sum())


def head_order(head: Head, score: str, weight: float) -> np.ndarray:
    """Returns the positions of the head, best first; equal scores keep the first stage's order."""
    return np.argsort(-SCORES[score](head, weight), kind="stable")


def _candidates(row: np.ndarray, num: int, skipped: np.ndarray | None) -> np.ndarray:
    """Returns the positions in a ranking's row of the images to verify."""
    usable = row >= 0
    if skipped is not None:
        usable &= ~np.isin(row, skipped)
    return np.flatnonzero(usable)[:num]


def _move_head(
    indices: np.ndarray, scores: np.ndarray, head: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a row with the positions `head` first, then the others as they were."""
    rest = np.setdiff1d(np.arange(len(indices)), head, assume_unique=True)
    order = np.concatenate([head, rest])
    return indices[order], scores[order]
