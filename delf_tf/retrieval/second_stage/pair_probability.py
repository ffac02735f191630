"""How likely a query and a candidate show one place: one fitted logit of all that compares them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from delf_tf.checks import require
from delf_tf.retrieval.second_stage.groups import connected
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
    + learned · l + intercept, for a first-stage score s, n inliers of m matches and a learned
    similarity l. Inliers that chance gives, the more the more matches there are, are no evidence at
    all, so that they reorder nothing.

    Attributes:
      similarity: weight of the first stage's score.
      evidence: weight of the logarithm of the inliers beyond chance, at least 0.
      intercept: the logit where both are 0.
      chance_inliers: inliers that chance gives, at least 0.
      chance_share: and of each match, 0 to 1.
      learned: weight of the learned similarity, at least 0.
    """

    similarity: float
    evidence: float
    intercept: float = 0.0
    chance_inliers: float = 12.0
    chance_share: float = 0.05
    learned: float = 0.0

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
        self,
        first_stage: np.ndarray,
        num_inliers: np.ndarray,
        num_matches: np.ndarray,
        learned: np.ndarray | None = None,
    ) -> np.ndarray:
        """Returns float64 [C]; the probability is 1 / (1 + exp(−logit)).

        Args:
          first_stage: float [C], the first stage's scores.
          num_inliers: int [C].
          num_matches: int [C], putative matches.
          learned: float [C], learned similarities; None only where their weight is 0.

        Raises:
          InputError: no learned similarities, and a weight of them.
        """
        seen = self.beyond_chance(num_inliers, num_matches)
        similarity = np.asarray(first_stage, np.float64)
        logit = self.similarity * similarity + self.evidence * seen + self.intercept
        if not self.learned:
            return logit
        require(
            learned is not None,
            "A probability of learned similarities must be given them.",
            hint='Set rerank.method to "learned" or "fusion".',
        )
        return logit + self.learned * np.asarray(learned, np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledPairs:
    """Pairs that a probability is fitted to.

    Attributes:
      first_stage: float64 [P].
      num_inliers: int64 [P].
      num_matches: int64 [P].
      is_match: bool [P].
      rows: int64 [P, 2], database rows of query and candidate; None: they are of no ranking.
      learned: float64 [P], learned similarities; None: they have none.
    """

    first_stage: np.ndarray
    num_inliers: np.ndarray
    num_matches: np.ndarray
    is_match: np.ndarray
    rows: np.ndarray | None = None
    learned: np.ndarray | None = None


def fit_pair_probability(
    pairs: LabelledPairs,
    *,
    chance_inliers: float = 12.0,
    chance_share: float = 0.05,
    evidence_ratio: float | None = None,
) -> PairProbability:
    """Fits similarity, evidence, learned and intercept by logistic regression.

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
    inputs = [pairs.first_stage, seen]
    if evidence_ratio is not None:
        require(evidence_ratio >= 0, "It must be at least 0.", evidence_ratio=evidence_ratio)
        inputs = [pairs.first_stage + evidence_ratio * seen]
    if pairs.learned is not None:
        inputs.append(pairs.learned)
    table = np.stack(inputs, axis=1)
    mean, scale = table.mean(axis=0), np.maximum(table.std(axis=0), 1e-12)
    fitted = LogisticRegression(max_iter=1000).fit((table - mean) / scale, pairs.is_match)
    weights = fitted.coef_[0] / scale
    intercept = float(fitted.intercept_[0] - weights @ mean)
    if evidence_ratio is not None:
        weights = np.insert(weights, 1, evidence_ratio * weights[0])
    similarity, evidence, learned = np.maximum([*weights, 0.0][:3], 0.0).tolist()
    return dataclasses.replace(
        shape, similarity=similarity, evidence=evidence, learned=learned, intercept=intercept
    )


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
        rows = np.stack([first, second], axis=1)
        return LabelledPairs(table[:, 4], inliers, matches, is_match.astype(bool), rows)
    joined = inliers >= JOINING_INLIERS
    scene = connected(len(ranking.database_ids), first[joined], second[joined])
    is_match = scene[first] == scene[second]
    clear = is_match | (inliers < DOUBTFUL_INLIERS)
    rows = np.stack([first, second], axis=1)
    pairs = (table[:, 4], inliers, matches, is_match, rows)
    return LabelledPairs(*(one[clear] for one in pairs))
