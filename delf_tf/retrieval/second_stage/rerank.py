"""The second stage: the head of a ranking, verified geometrically and put in a new order."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from delf_tf import artifacts, matching
from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.progress import Progress
from delf_tf.retrieval.second_stage.learned import LearnedSimilarity
from delf_tf.retrieval.second_stage.pair_probability import PairProbability
from delf_tf.retrieval.second_stage.scores import Scoring, sort_heads
from delf_tf.retrieval.second_stage.verification_files import VerificationFolder, VerifiedHead
from delf_tf.types import LocalFeatures, Ranking, Verification

FeatureReader = Callable[[str], LocalFeatures]
_UNVERIFIED = Verification(0, np.eye(3), np.zeros((0, 2), np.int32), np.zeros(0, bool))
# For each query, what was found for the database rows that were verified, in first-stage order.
Verifications = Sequence[Mapping[int, Verification]]


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
    scoring = Scoring(score, min_inliers, weight, probability, learned)
    require(num_candidates >= 0, "num_candidates must be 0 or more.", num_candidates=num_candidates)
    require(
        skip is None or len(skip) == len(ranking.query_ids),
        "skip must have one entry a query.",
        num_entries=len(skip or ()),
        num_queries=len(ranking.query_ids),
    )
    places = [
        _candidates(row, num_candidates, None if skip is None else skip[query])
        for query, row in enumerate(ranking.indices)
    ]
    compare = _Comparison(learned, verified, {"num_threads": num_threads}, verify)
    job = _Job(ranking, places, query_features, database_features, compare)
    folder = None
    if verifications_dir is not None:
        folder = VerificationFolder(
            verifications_dir, ranking.query_ids, job.fingerprint(fingerprint)
        )
    values, found = [], []
    for query, head in enumerate(job.run(folder)):
        values.append(scoring(head, ranking.scores[query, places[query]]))
        if folder is None:
            found.append(head.by_row())
    reranked = sort_heads(ranking, places, values)
    return reranked, tuple(found) if folder is None else folder


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
        similarity = [_inlier_similarity(query, one, seen) for one, seen in zip(databases, found)]
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


def _inlier_similarity(
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
