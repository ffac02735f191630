"""Collections whose labels are scored in ways of their own: recall at k, Holidays, UKBench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from delf_tf.checks import invalid, require
from delf_tf.evaluation.metrics import positive_positions
from delf_tf.types import GroundTruth, Ranking

UKBENCH_GROUP = 4


def recall_at_k(
    ranking: Ranking, ground_truth: GroundTruth, ks: Sequence[int] = (1, 5, 10, 100)
) -> dict[int, float]:
    """Returns the share of queries with a positive among the first k once junk is taken out, by k.

    The "recall@k" of instance and metric-learning benchmarks; queries without positives are left
    out, and without any other the result is NaN.

    Raises:
      InputError: other number of queries, a k below 1.
    """
    require(all(k >= 1 for k in ks), "ks must be 1 or more.", ks=tuple(ks))
    require(
        len(ground_truth) == len(ranking.query_ids),
        "ground_truth must have one entry a query of the ranking.",
        num_entries=len(ground_truth),
        num_queries=len(ranking.query_ids),
    )
    first = []
    for row, positives, junk in zip(ranking.indices, ground_truth.positives, ground_truth.junk):
        if len(positives):
            positions = positive_positions(row, positives, junk)
            first.append(positions[0] if len(positions) else np.inf)
    return {k: float(np.mean(np.array(first) < k)) if first else float("nan") for k in ks}


def holidays_labels(ids: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Returns INRIA Holidays' queries and labels from its file names.

    Jégou et al., "Hamming Embedding and Weak Geometric Consistency for Large Scale Image Search",
    ECCV 2008. An image's number divided by 100 is its group, and the first of a group, whose number
    is a multiple of 100, is the query. Its mAP is that of `metrics.evaluate_ranking`.

    Args:
      ids: image ids; the name before the extension is the number.

    Raises:
      InputError: an id whose name is not a number.
    """
    numbers = {one: _number(one) for one in ids}
    queries = tuple(one for one, number in numbers.items() if number % 100 == 0)
    return queries, {one: str(number // 100) for one, number in numbers.items()}


def ukbench_labels(ids: Sequence[str]) -> dict[str, str]:
    """Returns UKBench's labels from its file names, ukbench00000 and so on: groups of four.

    Raises:
      InputError: an id whose name does not end in a number.
    """
    return {one: str(_number(one) // UKBENCH_GROUP) for one in ids}


def ukbench_score(ranking: Ranking, labels: Mapping[str, str]) -> float:
    """Returns the N-S score: how many of the first four results show the query's object, 0..4.

    Nistér and Stewénius, "Scalable Recognition with a Vocabulary Tree", CVPR 2006. The query is a
    database image itself and counts as one of the four.

    Raises:
      InputError: fewer than four results a query, an image without a label.
    """
    require(
        ranking.indices.shape[1] >= UKBENCH_GROUP,
        f"The ranking must hold at least {UKBENCH_GROUP} results a query.",
        indices=ranking.indices,
    )
    needed = [*ranking.query_ids, *ranking.database_ids]
    missing = [one for one in needed if one not in labels]
    require(not missing, "Every image must have a label.", missing=missing[:3])
    if not ranking.query_ids:
        return float("nan")
    found = [
        sum(row >= 0 and labels[ranking.database_ids[row]] == labels[query] for row in rows)
        for query, rows in zip(ranking.query_ids, ranking.indices[:, :UKBENCH_GROUP])
    ]
    return float(np.mean(found))


def _number(image_id: str) -> int:
    stem = image_id.replace("\\", "/").rsplit("/", 1)[-1].split(".", 1)[0]
    digits = stem[len(stem.rstrip("0123456789")) :]
    if not digits.isascii() or not digits:
        raise invalid("An image's name must end in its number.", id=image_id)
    return int(digits)
