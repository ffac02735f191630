"""Instance recognition from a ranking: the nearest labelled images vote for the query's class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from delf_tf.checks import require
from delf_tf.types import Ranking

# The class of database images that show no landmark.
NON_LANDMARK = -1
# Sums of equal votes, added in another order, differ by less.
_TOLERANCE = 1e-10


def recognize(
    ranking: Ranking, labels: Mapping[str, int], k: int = 5, *, power: float = 1.0
) -> dict[str, tuple[int, float]]:
    """Names each query by the votes of its `k` best images.

    An image votes for its class with max(score, 0) ** power. The class with the most votes wins,
    the better-ranked one among equals; its confidence is its votes less those for NON_LANDMARK,
    over k. A query for which NON_LANDMARK wins gets no answer, for a wrong answer costs more than
    none.

    Args:
      ranking: Q queries; the order decides which images vote, the scores how strongly.
      labels: class by database id, NON_LANDMARK for images that show none.
      k: voters.
      power: raises the weight of near images.

    Returns:
      (class, confidence) by query id, for the queries that got an answer.

    Raises:
      InputError: a k below 1, a voter without a label.
    """
    require(k >= 1, "k must be 1 or more.", k=k)
    answers = {}
    for query, row, scores in zip(ranking.query_ids, ranking.indices, ranking.scores):
        voters = [ranking.database_ids[one] for one in row[:k] if one >= 0]
        missing = [one for one in voters if one not in labels]
        require(not missing, "Every image that votes must have a label.", missing=missing[:3])
        votes: dict[int, float] = {}
        for voter, score in zip(voters, scores):
            weight = float(np.maximum(score, 0)) ** power
            votes[labels[voter]] = votes.get(labels[voter], 0.0) + weight
        if votes:
            most = max(votes.values()) - _TOLERANCE
            winner = next(label for label, cast in votes.items() if cast >= most)
            if winner != NON_LANDMARK:
                against = votes.get(NON_LANDMARK, 0.0)
                answers[query] = (winner, (votes[winner] - against) / k)
    return answers
