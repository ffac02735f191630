"""Geometric verification: how many of two images' features agree on one transform."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from delf_tf.checks import invalid
from delf_tf.matching.nearest import MatchTests, match_packed, pack_query
from delf_tf.matching.ransac import RansacOptions, search_transform
from delf_tf.threads import check_num_threads, run_all
from delf_tf.types import LocalFeatures, Verification


def verify(
    query: LocalFeatures,
    database: LocalFeatures,
    model: str = RansacOptions.model,
    *,
    inlier_threshold_px: float = RansacOptions.inlier_threshold_px,
    max_distance: float | None = None,
    max_ratio: float | None = None,
    mutual: bool = True,
    seed: int = 0,
    num_threads: int | None = None,
    **search: Any,
) -> Verification:
    """Matches two images' features and finds the transform that most matches agree with.

    Args:
      query: N features.
      database: M features.
      model: "affine", "similarity" or "homography"; see `RansacOptions`.
      inlier_threshold_px: inliers lie nearer than this to where the transform takes them, in
        pixels of the database image.
      max_distance: of a match's descriptors; see `match`.
      max_ratio: see `match`.
      mutual: see `match`.
      seed: of the random samples.
      num_threads: for the matching; None for all processors. The result does not depend on it.
      **search: further fields of `RansacOptions`.

    Returns:
      The verification; no inliers where either image has too few features, or the matches agree
      on nothing plausible.

    Raises:
      InputError: other widths, or an argument out of its range.
    """
    tests = MatchTests(max_distance, max_ratio, mutual)
    options = RansacOptions(model, inlier_threshold_px, seed=seed, **search)
    threads = check_num_threads(num_threads)
    prepared = PreparedQuery(query)
    return _verify(prepared, database, tests, options, threads)


def verify_many(
    query: LocalFeatures,
    databases: Iterable[LocalFeatures],
    model: str = RansacOptions.model,
    *,
    inlier_threshold_px: float = RansacOptions.inlier_threshold_px,
    max_distance: float | None = None,
    max_ratio: float | None = None,
    mutual: bool = True,
    seed: int = 0,
    num_threads: int | None = None,
    **search: Any,
) -> list[Verification]:
    """Verifies one query against many images in parallel; see `verify`, whose results it gives."""
    tests = MatchTests(max_distance, max_ratio, mutual)
    options = RansacOptions(model, inlier_threshold_px, seed=seed, **search)
    threads = check_num_threads(num_threads)
    prepared = PreparedQuery(query)
    return run_all(
        lambda database: _verify(prepared, database, tests, options, 1), databases, threads
    )


class PreparedQuery:
    """What all verifications of one query share."""

    def __init__(self, query: LocalFeatures):
        require_features("query", query)
        self.features = query
        self.packed = pack_query(query.descriptors)


def _verify(
    query: PreparedQuery,
    database: LocalFeatures,
    tests: MatchTests,
    options: RansacOptions,
    num_threads: int,
) -> Verification:
    require_features("database", database)
    matches, distances = match_packed(query.packed, database.descriptors, tests, num_threads)
    return verify_matches(query, database, matches, distances, options)


def verify_matches(
    query: PreparedQuery,
    database: LocalFeatures,
    matches: np.ndarray,
    distances: np.ndarray,
    options: RansacOptions,
) -> Verification:
    """Verifies matches int64 [M, 2] with descriptor distances float32 [M]."""
    order = np.argsort(distances, kind="stable")
    transform, mask = search_transform(
        (query.features.locations, query.features.scales),
        (database.locations, database.scales),
        matches,
        order,
        options,
    )
    return Verification(int(mask.sum()), transform, matches, mask)


def require_features(name: str, features: object) -> None:
    """Requires LocalFeatures."""
    if not isinstance(features, LocalFeatures):
        received: dict[str, Any] = {name: features}
        raise invalid(f"{name} must be LocalFeatures.", **received)
