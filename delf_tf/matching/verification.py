"""Geometric verification: how many of two images' features agree on one transform."""

from __future__ import annotations

import dataclasses
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
    num_threads: int | None = None,
    **options: Any,
) -> Verification:
    """Matches two images' features and finds the transform that most matches agree with.

    Args:
      query: N features.
      database: M features.
      model: "affine", "similarity" or "homography"; see `RansacOptions`.
      num_threads: for the matching; None for all processors. The result does not depend on it.
      **options: fields of `MatchTests` (max_distance, max_ratio, mutual) and of `RansacOptions`
        (inlier_threshold_px, seed, …).

    Returns:
      The verification; no inliers where either image has too few features, or the matches agree
      on nothing plausible.

    Raises:
      InputError: other widths, or an argument out of its range.
    """
    job = _Job(query, model, options)
    return job.verify(database, check_num_threads(num_threads))


def verify_many(
    query: LocalFeatures,
    databases: Iterable[LocalFeatures],
    model: str = RansacOptions.model,
    *,
    num_threads: int | None = None,
    **options: Any,
) -> list[Verification]:
    """Verifies one query against many images in parallel; see `verify`, whose results it gives."""
    return run_all(_Job(query, model, options).verify, databases, check_num_threads(num_threads))


class _Job:
    """What all verifications of one query share."""

    def __init__(self, query: LocalFeatures, model: str, options: dict[str, Any]):
        _require_features("query", query)
        tests = {field.name for field in dataclasses.fields(MatchTests)} & options.keys()
        search = {name: value for name, value in options.items() if name not in tests}
        self._tests = MatchTests(**{name: options[name] for name in tests})
        self._search = RansacOptions(model, **search)
        self._query, self._packed = query, pack_query(query.descriptors)

    def verify(self, database: LocalFeatures, num_threads: int = 1) -> Verification:
        _require_features("database", database)
        matches, distances = match_packed(
            self._packed, database.descriptors, self._tests, num_threads
        )
        transform, mask = search_transform(
            (self._query.locations, self._query.scales),
            (database.locations, database.scales),
            matches,
            np.argsort(distances, kind="stable"),
            self._search,
        )
        return Verification(int(mask.sum()), transform, matches, mask)


def _require_features(name: str, features: object) -> None:
    if not isinstance(features, LocalFeatures):
        received: dict[str, Any] = {name: features}
        raise invalid(f"{name} must be LocalFeatures.", **received)
