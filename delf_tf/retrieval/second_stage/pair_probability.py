"""How likely a query and a candidate show one place, by similarity and inliers: a fitted logit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from delf_tf.checks import require
from delf_tf.types import Ranking

if TYPE_CHECKING:
    from delf_tf.retrieval.second_stage.rerank import Verifications

# Of `scene_pairs`: inliers that join two pictures, and from which on a pair is left out.
JOINING_INLIERS = 30
DOUBTFUL_INLIERS = 20


@dataclasses.dataclass(frozen=True)
class PairProbability:
    """A logistic model of a pair.

    logit = similarity · s + evidence · ln(1 + max(0, n − chance_inliers − chance_share · m))
    + intercept, for a first-stage score s, n inliers of m matches. Inliers that chance gives, the
    more the more matches there are, are no evidence at all, so that they reorder nothing.

    Attributes:
      similarity: weight of the first stage's score.
      evidence: weight of the logarithm of the inliers beyond chance, at least 0.
      intercept: the logit where both are 0.
      chance_inliers: inliers that chance gives, at least 0.
      chance_share: and of each match, 0 to 1.
    """

    similarity: float
    evidence: float
    intercept: float = 0.0
    chance_inliers: float = 12.0
    chance_share: float = 0.05

    def __post_init__(self) -> None:
        numbers = dataclasses.asdict(self)
        must = "The numbers of a pair's probability must be finite."
        require(all(map(math.isfinite, numbers.values())), must, **numbers)
        must = "They must be at least 0 but the intercept, and chance_share at most 1."
        least = min(value for name, value in numbers.items() if name != "intercept")
        require(least >= 0 and self.chance_share <= 1, must, **numbers)

    def beyond_chance(self, num_inliers: np.ndarray, num_matches: np.ndarray) -> np.ndarray:
        """Returns float64 [C], ln(1 + inliers beyond chance), of int counts [C]."""
        chance = self.chance_inliers + self.chance_share * np.asarray(num_matches, np.float64)
        return np.log1p(np.maximum(num_inliers - chance, 0.0))

    def logit(
        self, first_stage: np.ndarray, num_inliers: np.ndarray, num_matches: np.ndarray
    ) -> np.ndarray:
        """Returns float64 [C]; the probability is 1 / (1 + exp(−logit)).

        Args:
          first_stage: float [C], the first stage's scores.
          num_inliers: int [C].
          num_matches: int [C], putative matches.
        """
        seen = self.beyond_chance(num_inliers, num_matches)
        similarity = np.asarray(first_stage, np.float64)
        return self.similarity * similarity + self.evidence * seen + self.intercept


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledPairs:
    """Pairs that a probability is fitted to.

    Attributes:
      first_stage: float64 [P].
      num_inliers: int64 [P].
      num_matches: int64 [P].
      is_match: bool [P].
    """

    first_stage: np.ndarray
    num_inliers: np.ndarray
    num_matches: np.ndarray
    is_match: np.ndarray


def fit_pair_probability(
    pairs: LabelledPairs,
    *,
    chance_inliers: float = 12.0,
    chance_share: float = 0.05,
    evidence_ratio: float | None = None,
) -> PairProbability:
    """Fits similarity, evidence and intercept by logistic regression.

    Args:
      pairs: P pairs of both kinds.
      chance_inliers: see PairProbability; not fitted.
      chance_share: likewise.
      evidence_ratio: evidence over similarity, fixed: pairs labelled by their inliers would make it
        too large. None fits it.

    Raises:
      InputError: pairs of one kind alone.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - slow to import

    require(
        bool(pairs.is_match.any() and not pairs.is_match.all()),
        "A probability must be fitted to pairs that match and pairs that do not.",
        num_pairs=len(pairs.is_match),
        num_matching=int(pairs.is_match.sum()),
    )
    shape = PairProbability(0, 0, 0, chance_inliers, chance_share)
    seen = shape.beyond_chance(pairs.num_inliers, pairs.num_matches)
    inputs = np.stack([pairs.first_stage, seen], axis=1)
    if evidence_ratio is not None:
        require(evidence_ratio >= 0, "It must be at least 0.", evidence_ratio=evidence_ratio)
        inputs = inputs @ np.array([[1.0], [evidence_ratio]])
    mean, scale = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), 1e-12)
    fitted = LogisticRegression(max_iter=1000).fit((inputs - mean) / scale, pairs.is_match)
    weights = fitted.coef_[0] / scale
    intercept = float(fitted.intercept_[0] - weights @ mean)
    if evidence_ratio is not None:
        weights = weights * np.array([1.0, evidence_ratio])
    similarity, evidence = (max(0.0, float(weight)) for weight in weights)
    return dataclasses.replace(shape, similarity=similarity, evidence=evidence, intercept=intercept)


def scene_pairs(
    ranking: Ranking, verifications: Verifications, labels: Mapping[str, str] | None = None
) -> LabelledPairs:
    """Labels the pairs of a ranking of pictures against themselves, if need be without labels.

    Without labels, pictures with JOINING_INLIERS or more between them are of one scene, and so are
    those that such pairs join by way of others: a chain finds pairs that share little. Pairs of two
    scenes that have DOUBTFUL_INLIERS or more are left out. So is each picture beside itself.

    Args:
      ranking: queries and database of the same pictures.
      verifications: what `rerank` returned for it.
      labels: place by image; pictures without one match nothing.

    Raises:
      InputError: a query that is no image of the database.
    """
    from scipy import sparse  # noqa: PLC0415 - slow to import

    row_of = {name: row for row, name in enumerate(ranking.database_ids)}
    found = []
    for query, (name, heads) in enumerate(zip(ranking.query_ids, verifications)):
        score = dict(zip(ranking.indices[query].tolist(), ranking.scores[query].tolist()))
        for row, one in heads.items():
            if row_of.get(name) != row:
                found.append(
                    (row_of.get(name, -1), row, one.num_inliers, len(one.matches), score[row])
                )
    table = np.array(found, np.float64).reshape(-1, 5)
    first, second, inliers, matches = table[:, :4].astype(np.int64).T
    require(
        bool((first >= 0).all()),
        "The queries must be images of the database.",
        hint="Search the pictures among themselves.",
    )
    if labels is not None:
        names = [labels.get(name, "") for name in ranking.database_ids]
        places = np.array(names, dtype=object)
        is_match = (places[first] == places[second]) & (places[first] != "")
        return LabelledPairs(table[:, 4], inliers, matches, is_match.astype(bool))
    joined = inliers >= JOINING_INLIERS
    size = len(ranking.database_ids)
    graph = sparse.coo_matrix((joined[joined], (first[joined], second[joined])), (size, size))
    _, scene = sparse.csgraph.connected_components(graph, directed=False)
    is_match = scene[first] == scene[second]
    clear = is_match | (inliers < DOUBTFUL_INLIERS)
    return LabelledPairs(table[clear, 4], inliers[clear], matches[clear], is_match[clear])
