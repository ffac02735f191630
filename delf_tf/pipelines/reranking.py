"""Re-ranks rankings by the second stage that a config describes."""

from __future__ import annotations

import copy
import dataclasses
import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from delf_tf import config
from delf_tf.artifacts import StrPath
from delf_tf.checks import require, require_choice
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import indexing, stages
from delf_tf.pipelines.runtime import verify_options
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval.second_stage import embedding
from delf_tf.retrieval.second_stage import rerank as second_stage
from delf_tf.retrieval.second_stage.learned import LearnedSimilarity
from delf_tf.retrieval.second_stage.pair_probability import (
    LabelledPairs,
    PairProbability,
    fit_pair_probability,
    scene_pairs,
)
from delf_tf.retrieval.second_stage.verification_files import load_verifications
from delf_tf.types import LocalFeatures, Ranking

# Database images re-appear in many queries' heads; this many are kept decoded.
_CACHED_IMAGES = 512
# Method that compares local features by a learned similarity -> its score where none is named.
_LEARNED_SCORES = {"learned": "learned", "fusion": "probability"}


def rerank(
    message: experiment_pb2.Experiment,
    ranking_path: StrPath,
    output: StrPath,
    *,
    database: FeatureStore,
    queries: FeatureStore | None = None,
    verifications_dir: StrPath | None = None,
    overwrite: bool = False,
    num_threads: int = 2,
) -> dict[str, Any]:
    """Re-ranks a stored ranking and writes the new one.

    Args:
      message: the experiment.
      ranking_path: the first stage's ranking (.npz).
      output: of the new ranking (.npz).
      database: features of its database.
      queries: features of its queries; None if they are images of the database.
      verifications_dir: keeps every verification, and is resumed; None: `output` with the
        ending .verifications.
      overwrite: verify anew.
      num_threads: that verify pairs.

    Returns:
      What was done, for JSON: "path", "verifications_dir" and settings.

    Raises:
      InputError: a setting out of range, an image of the ranking that a store lacks.
    """
    kept = Path(verifications_dir or Path(output).with_suffix(".verifications"))
    if overwrite and (kept / "manifest.json").is_file():
        load_verifications(kept)
        shutil.rmtree(kept)
    ranking = ranking_file.load_ranking(ranking_path)
    queries = database if queries is None else queries
    settings = rerank_arguments(message)
    reranked, _ = method(message, database)(
        ranking,
        queries.read_local,
        cached_reader(database),
        num_threads=num_threads,
        verifications_dir=kept,
        fingerprint=heads_identity(message, ranking, queries, database),
    )
    facts = {
        "method": message.rerank.method,
        "score": settings["score"],
        "weight": settings["weight"] if settings["score"] == "combined" else None,
        "num_candidates": settings["num_candidates"],
        "min_inliers": settings["min_inliers"],
        "blind_reranking": True,
        "queries_cropped": ranking_file.load_ranking_metadata(ranking_path).get("queries_cropped"),
    }
    path = ranking_file.save_ranking(output, reranked, fingerprint=database.fingerprint, **facts)
    return {"path": str(path), "verifications_dir": str(kept), **facts}


def _second_stage(message: experiment_pb2.Experiment, database: FeatureStore) -> Reranker:
    del database
    return functools.partial(second_stage.rerank, **rerank_arguments(message))


def _by_all_pairs(
    order: embedding.Order,
    message: experiment_pb2.Experiment,
    database: FeatureStore,
) -> Reranker:
    settings = rerank_arguments(message)
    require(
        "probability" in settings and not stages.by_local_features(message),
        "Re-ranking by all pairs of a head needs an index of global descriptors and a fitted "
        "probability of pairs.",
        hint="Set rerank.probability; delf_tf rerank --fit_probability prints it.",
        method=message.rerank.method,
    )
    shared = copy.deepcopy(message)
    for name in ("query_expansion", "global_rerank"):
        shared.ClearField(name)
    for name in ("method", "num_candidates", "score", "weight", "min_inliers"):
        shared.rerank.ClearField(name)
    text = shared.SerializeToString(deterministic=True)
    pairs = functools.partial(_database_pairs, text, database, database.identity())
    return functools.partial(embedding.rerank, order=order, database_pairs=pairs, **settings)


@functools.lru_cache(maxsize=1)
def _database_pairs(text: bytes, database: FeatureStore, identity: str) -> sparse.csr_matrix:
    """Returns what `embedding.verify_database` makes; one database's is kept for other methods.

    Args:
      text: a serialised experiment without what is not the pairs' own.
      database: the features.
      identity: theirs, which changes with them.
    """
    message = experiment_pb2.Experiment.FromString(text)
    given = config.arguments(message.rerank, embedding.verify_database)
    depth = max(1, min(given["num_neighbors"], len(database.ids()) - 1))
    found = indexing.index_store(message, database).search(database, depth, exclude_self=True)
    return embedding.verify_database(
        found,
        cached_reader(database),
        num_neighbors=given["num_neighbors"],
        probability=rerank_arguments(message)["probability"],
        verifications_dir=message.rerank.database_pairs or None,
        fingerprint=identity,
        **verify_options(message),
    )


# Puts a head in a new order: a function of (ranking, query reader, database reader) and of the
# keywords num_threads, verifications_dir and fingerprint, as `retrieval.second_stage.rerank` is.
Reranker = Callable[..., tuple[Ranking, second_stage.Verifications]]
# rerank.method -> what makes the function, its settings bound, of an experiment and the database's
# features. A new method is such a function and a row here.
METHODS: dict[str, Callable[[experiment_pb2.Experiment, FeatureStore], Reranker]] = {
    **dict.fromkeys(("verification", "learned", "fusion"), _second_stage),
    **{name: functools.partial(_by_all_pairs, one) for name, one in embedding.ORDERS.items()},
}


def method(message: experiment_pb2.Experiment, database: FeatureStore) -> Reranker:
    """Returns what re-ranks images of a database as the experiment says.

    What it learns of the database it keeps, so it is made once for many queries.

    Raises:
      InputError: a method that is not there, or a setting that it cannot take.
    """
    name = message.rerank.method
    require_choice("method", name, METHODS)
    return METHODS[name](message, database)


def cached_reader(database: FeatureStore) -> Callable[[str], LocalFeatures]:
    """Returns what reads an image's local features and keeps those read last decoded."""
    return functools.lru_cache(_CACHED_IMAGES)(database.read_local)


def heads_identity(
    message: experiment_pb2.Experiment,
    ranking: Ranking,
    queries: FeatureStore,
    database: FeatureStore,
) -> str:
    """Returns the identity of the features that a ranking's heads compare.

    Other images, however many, are not looked at.
    """
    rows = np.unique(ranking.indices[:, : rerank_arguments(message)["num_candidates"]])
    compared = [ranking.database_ids[row] for row in rows[rows >= 0]]
    return f"{queries.identity(ranking.query_ids)} {database.identity(compared)}"


def rerank_arguments(message: experiment_pb2.Experiment) -> dict[str, Any]:
    """Returns the keyword arguments of `retrieval.second_stage.rerank` that the config means."""
    settings = config.arguments(message.rerank, second_stage.rerank)
    names = ("num_candidates", "min_inliers", "score", "weight")
    arguments = {**{name: settings[name] for name in names}, **verify_options(message)}
    if message.rerank.HasField("probability"):
        fitted = config.arguments(message.rerank.probability, PairProbability)
        arguments["probability"] = PairProbability(**fitted)
    if message.rerank.method in _LEARNED_SCORES:
        arguments["learned"] = _learned_similarity(message.rerank.learned)
        arguments["verified"] = message.rerank.method == "fusion"
        if not message.rerank.HasField("score"):
            arguments["score"] = _LEARNED_SCORES[message.rerank.method]
    return arguments


def _learned_similarity(section: experiment_pb2.LearnedConfig) -> LearnedSimilarity:
    options = config.set_fields(section)
    path = Path(options.pop("weights", ""))
    require(
        path.is_file(),
        "rerank.learned.weights must be a file of weights.",
        hint="Make one with `delf_tf train --store`.",
        weights=section.weights,
    )
    return _loaded(path, path.stat().st_mtime_ns, **options)


@functools.lru_cache(2)
def _loaded(path: Path, changed_ns: int, **options: Any) -> LearnedSimilarity:
    """Returns the similarity of a file as it was last changed; one query asks after another."""
    del changed_ns
    return LearnedSimilarity(path, **options)


def fit_probability(
    message: experiment_pb2.Experiment,
    ranking_path: StrPath,
    database: FeatureStore,
    *,
    labels: Mapping[str, str] | None = None,
    evidence_ratio: float | None = None,
    verifications_dir: StrPath | None = None,
    num_threads: int = 2,
) -> PairProbability:
    """Fits what the score "probability" sorts by to pictures searched among themselves.

    Args:
      message: the experiment.
      ranking_path: of the pictures, not those that will be searched, as queries and database.
      database: their features.
      labels: place by image; None: pictures are of one scene that many inliers join.
      evidence_ratio: see `fit_pair_probability`.
      verifications_dir: see `rerank`.
      num_threads: that verify pairs.

    Raises:
      InputError: queries that are no images of the database, pairs of one kind alone.
    """
    ranking = ranking_file.load_ranking(ranking_path)
    options = {**rerank_arguments(message), "score": "inliers", "verified": True}
    learned = options.pop("learned", None)
    _, found = second_stage.rerank(
        ranking,
        database.read_local,
        cached_reader(database),
        num_threads=num_threads,
        verifications_dir=verifications_dir,
        fingerprint=heads_identity(message, ranking, database, database),
        **options,
    )
    given = options.get("probability", PairProbability(0, 0))
    pairs = scene_pairs(ranking, found, labels)
    if learned is not None:
        pairs = _with_learned(pairs, learned, ranking, database, num_threads)
    if message.rerank.method == "learned":
        pairs = dataclasses.replace(pairs, num_inliers=np.zeros_like(pairs.num_inliers))
    return fit_pair_probability(
        pairs,
        chance_inliers=given.chance_inliers,
        chance_share=given.chance_share,
        evidence_ratio=evidence_ratio,
    )


def _with_learned(
    pairs: LabelledPairs,
    learned: LearnedSimilarity,
    ranking: Ranking,
    database: FeatureStore,
    num_threads: int,
) -> LabelledPairs:
    """Returns the pairs with their learned similarities."""
    read = cached_reader(database)
    ids = ranking.database_ids
    similarity = np.zeros(len(pairs.rows), np.float64)
    for query in np.unique(pairs.rows[:, 0]):
        of_query = np.flatnonzero(pairs.rows[:, 0] == query)
        others = [read(ids[row]) for row in pairs.rows[of_query, 1]]
        similarity[of_query] = learned.compare(read(ids[query]), others, num_threads=num_threads)
    return dataclasses.replace(pairs, learned=similarity)
