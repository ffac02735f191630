"""How many inliers chance gives with these features: pairs of images of different places."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from delf_tf import matching
from delf_tf.checks import require
from delf_tf.datasets import folder
from delf_tf.matching.calibration import ChanceInliers
from delf_tf.types import LocalFeatures, Ranking

_TRIES = 20


def chance_inliers(
    ranking: Ranking,
    read_query: Callable[[str], LocalFeatures],
    read_database: Callable[[str], LocalFeatures],
    *,
    num_pairs: int,
    num_candidates: int,
    labels: Mapping[str, str] | None,
    options: Mapping[str, Any],
    num_threads: int,
    quantile: float = 0.99,
) -> ChanceInliers:
    """Verifies random pairs that do not match and learns the counts that chance gives.

    With labels, pairs whose places differ, or of which one shows none. Without, a query and an
    image beyond the head of its ranking, which rarely shows the same.

    Args:
      ranking: the first stage's result.
      read_query: gives a query's local features by its id.
      read_database: gives a database image's.
      num_pairs: hundreds.
      num_candidates: length of the head.
      labels: place by image, or None.
      options: arguments of `matching.verify`.
      num_threads: of the verification.
      quantile: share of the pairs that is to stay below the limit.

    Raises:
      InputError: no such pairs, or a number out of range.
    """
    require(num_pairs >= 1, "The pairs to calibrate on must be 1 or more.", num_pairs=num_pairs)
    pairs = _draw(ranking, num_pairs, num_candidates, labels)
    features = (
        (read_query(ranking.query_ids[q]), read_database(ranking.database_ids[d])) for q, d in pairs
    )
    calibrate = cast("Callable[..., ChanceInliers]", matching.calibrate)
    return calibrate(features, quantile=quantile, num_threads=num_threads, **options)


def describe(chance: ChanceInliers) -> dict[str, Any]:
    """Returns the table for JSON: least inliers that count, by number of putative matches."""
    matches = [round(one) for one in chance.num_matches.tolist()]
    return {
        "quantile": chance.quantile,
        "num_matches": matches,
        "min_inliers": [chance.threshold(one) for one in matches],
    }


def _draw(
    ranking: Ranking, num_pairs: int, num_candidates: int, labels: Mapping[str, str] | None
) -> list[tuple[int, int]]:
    random = np.random.default_rng(0)
    num_queries, num_images = len(ranking.query_ids), len(ranking.database_ids)
    places = None
    if labels is not None:
        ids = ranking.query_ids, ranking.database_ids
        places = folder.places(ids[0], labels), folder.places(ids[1], labels)
    pairs: list[tuple[int, int]] = []
    for _ in range(num_pairs * _TRIES if num_queries and num_images else 0):
        query, image = int(random.integers(num_queries)), int(random.integers(num_images))
        if ranking.query_ids[query] == ranking.database_ids[image]:
            continue
        if places is None:
            differ = image not in ranking.indices[query, :num_candidates]
        else:
            # Two images without a place may show the same thing.
            differ = places[0][query] != places[1][image]
        if differ:
            pairs.append((query, image))
        if len(pairs) == num_pairs:
            break
    require(
        bool(pairs),
        "Calibration must find pairs of images that do not match.",
        hint="Give --labels, or rank more images than are verified.",
        num_queries=num_queries,
        num_images=num_images,
        num_candidates=num_candidates,
    )
    return pairs
