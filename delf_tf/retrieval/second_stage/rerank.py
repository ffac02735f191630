"""The second stage: the head of a ranking, verified geometrically and put in a new order."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from delf_tf import artifacts, matching
from delf_tf.artifacts import StrPath
from delf_tf.checks import require, require_choice
from delf_tf.progress import Progress
from delf_tf.retrieval.ordering import descending
from delf_tf.retrieval.second_stage.learned import LearnedSimilarity
from delf_tf.retrieval.second_stage.pair_probability import PairProbability
from delf_tf.retrieval.second_stage.verification_files import VerificationFolder, VerifiedHead
from delf_tf.types import LocalFeatures, Ranking, Verification

FeatureReader = Callable[[str], LocalFeatures]
_UNVERIFIED = Verification(0, np.eye(3), np.zeros((0, 2), np.int32), np.zeros(0, bool))
# For each query, what was found for the database rows that were verified, in first-stage order.
Verifications = Sequence[Mapping[int, Verification]]


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """The verified images of one query, in first-stage order.

    Attributes:
      rows: int64 [C], rows of the database.
      first_stage: float32 [C], their scores in the ranking.
      num_inliers: int64 [C]; counts that are taken for chance are 0.
      similarity: float32 [C], inlier-weighted similarity; 0 for chance.
      logit: float64 [C], of the probability that the pair is one place; None: none is fitted.
      blend: float64 [C], of the first stage and the learned similarity; None: none is computed.
    """

    rows: np.ndarray
    first_stage: np.ndarray
    num_inliers: np.ndarray
    similarity: np.ndarray
    logit: np.ndarray | None = None
    blend: np.ndarray | None = None


def _inliers(head: Head, weight: float) -> np.ndarray:
    return head.num_inliers.astype(np.float64)


def _weighted(head: Head, weight: float) -> np.ndarray:
    return head.similarity.astype(np.float64)


def _combined(head: Head, weight: float) -> np.ndarray:
    return head.first_stage.astype(np.float64) + weight * np.log1p(head.num_inliers)


def _probability(head: Head, weight: float) -> np.ndarray:
    require(
        head.logit is not None,
        'The score "probability" must have a fitted PairProbability.',
        hint="Give `probability`, or rerank.probability in a config.",
    )
    return cast("np.ndarray", head.logit)


def _learned(head: Head, weight: float) -> np.ndarray:
    require(
        head.blend is not None,
        'The score "learned" must have a learned similarity.',
        hint='Set rerank.method to "learned" or "fusion".',
    )
    return cast("np.ndarray", head.blend)


# What the head is sorted by; a new score is a function of (Head, weight) and a row here.
SCORES: dict[str, Callable[[Head, float], np.ndarray]] = {
    "inliers": _inliers,
    "weighted": _weighted,
    "combined": _combined,
    "probability": _probability,
    "learned": _learned,
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
    probability: PairProbability | None = None,
    learned: LearnedSimilarity | None = None,
    verified: bool = True,
    skip: Sequence[np.ndarray] | None = None,
    verifications_dir: StrPath | None = None,
    fingerprint: str = "",
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
        similarities; "combined", first-stage score + `weight` · ln(1 + inliers); "probability",
        that of a fitted model of all, which counts inliers beyond chance alone; "learned", the
        blend of first stage and learned similarity.
      weight: of the inliers in "combined".
      probability: what "probability" sorts by; `min_inliers` has no part in it.
      learned: compares local features as well; None: nothing but verification does.
      verified: False verifies nothing: no pair has inliers.
      skip: for each query, database rows that are passed over when candidates are chosen. None, the
        default, is blind re-ranking; the junk of a ground truth gives the figures as published.
      verifications_dir: where each verification is kept; a run that was killed goes on there. None
        keeps them in memory.
      fingerprint: of the features; with the ranking's head and the arguments of `verify_many` it
        tells whether `verifications_dir` may be used.
      **verify: further arguments of `delf_tf.matching.verify_many`.

    Returns:
      The new ranking, and for each query the verifications by database row, read from
      `verifications_dir` when they are asked for if there is one.

    Raises:
      InputError: an argument out of range, features of different widths, a `verifications_dir` of
        something else.
    """
    require_choice("score", score, SCORES)
    require(num_candidates >= 0, "num_candidates must be 0 or more.", num_candidates=num_candidates)
    require(
        skip is None or len(skip) == len(ranking.query_ids),
        "skip must have one entry a query.",
        num_entries=len(skip or ()),
        num_queries=len(ranking.query_ids),
    )
    require(
        not (learned and score == "probability" and probability and not probability.learned),
        "The probability must weigh the learned similarity, which is computed for nothing else.",
        hint="Set rerank.probability.learned (delf_tf rerank --fit_probability prints it), or "
        "rerank.score=learned.",
        learned=0,
    )
    places = [
        _candidates(row, num_candidates, None if skip is None else skip[query])
        for query, row in enumerate(ranking.indices)
    ]
    threads = {"num_threads": num_threads}
    compare = _Comparison(learned, verified, threads, verify)
    job = _Job(ranking, places, query_features, database_features, compare)
    folder = None
    if verifications_dir is not None:
        folder = VerificationFolder(
            verifications_dir, ranking.query_ids, job.fingerprint(fingerprint)
        )
    heads, found = [], []
    for query, head in enumerate(job.run(folder)):
        first_stage = ranking.scores[query, places[query]]
        heads.append(make_head(head, first_stage, min_inliers, probability, learned))
        if folder is None:
            found.append(head.by_row())
    reranked = reorder(ranking, places, heads, score, weight)
    return reranked, tuple(found) if folder is None else folder


def reorder(
    ranking: Ranking,
    places: Sequence[np.ndarray],
    heads: Sequence[Head],
    score: str,
    weight: float,
) -> Ranking:
    """Sorts each row's head by a score and puts it before the rest.

    Args:
      ranking: Q rows.
      places: for each query, integer [C], where in its row the head's images stand.
      heads: for each query, the same C images.
      score: a row of SCORES.
      weight: of the inliers in "combined".
    """
    return sort_heads(ranking, places, [SCORES[score](head, weight) for head in heads])


def sort_heads(
    ranking: Ranking, places: Sequence[np.ndarray], values: Sequence[np.ndarray]
) -> Ranking:
    """Sorts each row's head by given values, largest first, and puts it before the rest.

    Args:
      ranking: Q rows.
      places: see `reorder`.
      values: for each query, float64 [C]; equal ones keep the first stage's order.
    """
    indices, scores = ranking.indices.copy(), ranking.scores.copy()
    for query, (positions, value) in enumerate(zip(places, values)):
        moved = positions[descending(value)]
        indices[query], scores[query] = _move_head(indices[query], scores[query], moved)
    return dataclasses.replace(ranking, indices=indices, scores=scores)


@dataclasses.dataclass(frozen=True, eq=False)
class _Comparison:
    """How a query's local features are compared with its candidates'."""

    learned: LearnedSimilarity | None
    verified: bool
    threads: Mapping[str, Any]
    verify: Mapping[str, Any]

    def fingerprint(self) -> list[str]:
        """Returns what tells comparisons of other results apart; threads do not count."""
        own = [] if self.learned is None else [self.learned.fingerprint, str(self.verified)]
        return [json.dumps(dict(self.verify), sort_keys=True, default=repr), *own]

    def __call__(
        self, rows: np.ndarray, query: LocalFeatures, database: Iterator[LocalFeatures]
    ) -> VerifiedHead:
        """Compares a query with the images at `rows`, which are read one by one."""
        databases: list[LocalFeatures] = []

        def read() -> Iterator[LocalFeatures]:
            # The first are verified while the others are read.
            for one in database:
                databases.append(one)
                yield one

        if self.verified:
            verify_many = cast("Callable[..., Sequence[Verification]]", matching.verify_many)
            found = tuple(verify_many(query, read(), **self.threads, **self.verify))
        else:
            found = tuple(_UNVERIFIED for _ in read())
        similarity = [inlier_similarity(query, one, seen) for one, seen in zip(databases, found)]
        learned = None
        if self.learned is not None:
            learned = self.learned.compare(query, databases, **self.threads)
        return VerifiedHead(rows, np.array(similarity, np.float32), found, learned)


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    """Which images are compared with which queries, and how."""

    ranking: Ranking
    places: list[np.ndarray]
    query_features: FeatureReader
    database_features: FeatureReader
    compare: _Comparison

    def fingerprint(self, features: str) -> str:
        """Returns the fingerprint of all that the verifications depend on; threads do not count."""
        heads = b"".join(
            self.ranking.indices[query, places].tobytes() + b"|"
            for query, places in enumerate(self.places)
        )
        # The ids that candidates are read by, not the whole database's.
        used = np.unique(np.concatenate([*self._rows(), np.zeros(0, np.int64)]))
        names = json.dumps([self.ranking.database_ids[row] for row in used])
        return artifacts.fingerprint(features, *self.compare.fingerprint(), heads, names)

    def run(self, folder: VerificationFolder | None) -> Iterator[VerifiedHead]:
        """Yields each query's verified head, those of a folder from there."""
        num = len(self.places)
        if folder is None and num == 1:
            # A single query is interactive and needs no line of progress.
            yield self._verify(0)
            return
        with Progress(num, "queries", "Verifying") as progress:
            if folder is None:
                for query in range(num):
                    yield self._verify(query)
                    progress.update()
                return
            for block, queries in folder.blocks():
                if not folder.has(block):
                    folder.write(block, [self._verify(query) for query in queries])
                yield from folder.heads(block)
                progress.update(len(queries))

    def _rows(self) -> Iterator[np.ndarray]:
        for query, places in enumerate(self.places):
            yield self.ranking.indices[query, places]

    def _verify(self, query: int) -> VerifiedHead:
        ranking = self.ranking
        rows = ranking.indices[query, self.places[query]]
        read = (self.database_features(ranking.database_ids[row]) for row in rows)
        return self.compare(rows, self.query_features(ranking.query_ids[query]), read)


def make_head(
    verified: VerifiedHead,
    first_stage: np.ndarray,
    min_inliers: int,
    probability: PairProbability | None = None,
    learned: LearnedSimilarity | None = None,
) -> Head:
    """Returns what the scores need of one query's verifications.

    Args:
      verified: of C candidates.
      first_stage: float32 [C], their scores in the ranking.
      min_inliers: smaller counts become 0, as chance; see `rerank`.
      probability: see `rerank`.
      learned: likewise.
    """
    counts = np.array([one.num_inliers for one in verified.verifications], np.int64)
    real = counts >= max(min_inliers, 1)
    similarity = np.where(real, verified.similarity, 0)
    blend = logit = None
    if learned is not None and verified.learned is not None:
        blend = learned.blend(first_stage, verified.learned)
    if probability is not None:
        num_matches = np.array([len(one.matches) for one in verified.verifications], np.int64)
        logit = probability.logit(first_stage, counts, num_matches, verified.learned)
    return Head(verified.rows, first_stage, np.where(real, counts, 0), similarity, logit, blend)


def inlier_similarity(
    query: LocalFeatures, database: LocalFeatures, verification: Verification
) -> float:
    """Returns the sum over the inliers of their descriptors' inner product, negative ones as 0."""
    pairs = verification.matches[verification.inlier_mask]
    first = query.descriptors[pairs[:, 0]].astype(np.float64)
    second = database.descriptors[pairs[:, 1]].astype(np.float64)
    return float(np.maximum(np.einsum("md,md->m", first, second), 0).sum())


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
