"""What a verified head is sorted by, and the sorting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from delf_tf.checks import require, require_choice
from delf_tf.retrieval.ordering import descending
from delf_tf.retrieval.second_stage.learned import LearnedSimilarity
from delf_tf.retrieval.second_stage.pair_probability import PairProbability
from delf_tf.retrieval.second_stage.verification_files import VerifiedHead
from delf_tf.types import Ranking


@dataclasses.dataclass(frozen=True)
class Scoring:
    """A score of a query's verified images; the arguments of `rerank` that choose it.

    Attributes:
      score: a row of SCORES.
      min_inliers: smaller counts become 0, as chance.
      weight: of the inliers in "combined".
      probability: of the score "probability".
      learned: of the score "learned".
    """

    score: str = "inliers"
    min_inliers: int = 0
    weight: float = 0.1
    probability: PairProbability | None = None
    learned: LearnedSimilarity | None = None

    def __post_init__(self) -> None:
        require_choice("score", self.score, SCORES)
        by_probability = self.score == "probability"
        require(
            not by_probability or self.probability is not None,
            'The score "probability" must have a fitted PairProbability.',
            hint="Give `probability`, or rerank.probability in a config.",
        )
        require(
            self.score != "learned" or self.learned is not None,
            'The score "learned" must have a learned similarity.',
            hint='Set rerank.method to "learned" or "fusion".',
        )
        weighed = self.probability is None or bool(self.probability.learned)
        require(
            not (by_probability and self.learned) or weighed,
            "The probability must weigh the learned similarity, computed for nothing else.",
            hint="Set rerank.probability.learned (delf_tf rerank --fit_probability prints it), or "
            "rerank.score=learned.",
            learned=0,
        )

    def __call__(self, head: VerifiedHead, first_stage: np.ndarray) -> np.ndarray:
        """Returns float64 [C], the scores of C images whose first-stage scores are float32 [C]."""
        return np.asarray(SCORES[self.score](self, head, first_stage), np.float64)

    def real_inliers(self, head: VerifiedHead) -> np.ndarray:
        """Returns int64 [C], the inliers; 0 where they are taken for chance."""
        counts = head.num_inliers()
        return np.where(counts >= self.min_inliers, counts, 0)


def _weighted(how: Scoring, head: VerifiedHead, first_stage: np.ndarray) -> np.ndarray:
    return np.where(how.real_inliers(head) > 0, head.similarity, 0)


def _combined(how: Scoring, head: VerifiedHead, first_stage: np.ndarray) -> np.ndarray:
    return first_stage.astype(np.float64) + how.weight * np.log1p(how.real_inliers(head))


def _probability(how: Scoring, head: VerifiedHead, first_stage: np.ndarray) -> np.ndarray:
    num_matches = np.array([len(one.matches) for one in head.verifications], np.int64)
    model = cast("PairProbability", how.probability)
    return model.logit(first_stage, head.num_inliers(), num_matches, head.learned)


def _learned(how: Scoring, head: VerifiedHead, first_stage: np.ndarray) -> np.ndarray:
    similarity = cast("np.ndarray", head.learned)
    return cast("LearnedSimilarity", how.learned).blend(first_stage, similarity)


# A new score is a function of the scoring, a verified head and its first-stage scores, and a row.
SCORES: dict[str, Callable[[Scoring, VerifiedHead, np.ndarray], np.ndarray]] = {
    "inliers": lambda how, head, first_stage: how.real_inliers(head),
    "weighted": _weighted,
    "combined": _combined,
    "probability": _probability,
    "learned": _learned,
}


def sort_heads(
    ranking: Ranking, places: Sequence[np.ndarray], values: Sequence[np.ndarray]
) -> Ranking:
    """Sorts each row's head by given values, largest first, and puts it before the rest.

    Args:
      ranking: Q rows.
      places: for each query, integer [C], where in its row the head's images stand.
      values: for each query, float64 [C]; equal ones keep the first stage's order.
    """
    indices, scores = ranking.indices.copy(), ranking.scores.copy()
    for query, (positions, value) in enumerate(zip(places, values)):
        rest = np.setdiff1d(np.arange(indices.shape[1]), positions, assume_unique=True)
        order = np.concatenate([positions[descending(value)], rest])
        indices[query], scores[query] = indices[query, order], scores[query, order]
    return dataclasses.replace(ranking, indices=indices, scores=scores)
