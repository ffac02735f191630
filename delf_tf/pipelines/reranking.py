"""Rankings to better rankings: the second stage, as a config says."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from delf_tf import config
from delf_tf.artifacts import StrPath
from delf_tf.checks import require_choice
from delf_tf.datasets import folder
from delf_tf.evaluation import metrics
from delf_tf.features.store import FeatureStore
from delf_tf.matching.calibration import ChanceInliers
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval.search import Queries
from delf_tf.retrieval.second_stage import chance
from delf_tf.retrieval.second_stage import inlier_weight as combination
from delf_tf.retrieval.second_stage import rerank as second_stage
from delf_tf.retrieval.second_stage.pair_probability import (
    PairProbability,
    fit_pair_probability,
    scene_pairs,
)
from delf_tf.retrieval.second_stage.verification_files import load_verifications
from delf_tf.types import LocalFeatures, Ranking

# Database images re-appear in many queries' heads; this many are kept decoded.
_CACHED_IMAGES = 512
# Fields whose argument has another name.
_ARGUMENTS = {"transform": "model", "max_descriptor_distance": "max_distance"}


def rerank(
    message: experiment_pb2.Experiment,
    ranking_path: StrPath,
    output: StrPath,
    *,
    database: FeatureStore,
    queries: FeatureStore | None = None,
    labels: Mapping[str, str] | None = None,
    num_calibration_pairs: int = 0,
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
      labels: place by image, to report mAP before and after, and with score "combined" to fit the
        weight of the inliers, unless the config names one; or None.
      num_calibration_pairs: pairs that do not match, to learn from how many inliers chance gives;
        0: the config's min_inliers.
      verifications_dir: keeps every verification, and is gone on from; None: `output` with the
        ending .verifications.
      overwrite: verify anew.
      num_threads: that verify pairs.

    Returns:
      What was done, for JSON: "path", "verifications_dir", settings and figures.

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
    least: int | ChanceInliers = settings["min_inliers"]
    chosen: dict[str, Any] = {}
    if num_calibration_pairs:
        least = chance.chance_inliers(
            ranking,
            queries.read_local,
            database.read_local,
            num_pairs=num_calibration_pairs,
            num_candidates=settings["num_candidates"],
            labels=labels,
            options=verify_options(message),
            num_threads=num_threads,
        )
        chosen["min_inliers"] = least
    run = functools.partial(
        method(message),
        ranking,
        queries.read_local,
        cached_reader(database),
        num_threads=num_threads,
        verifications_dir=kept,
        fingerprint=features_fingerprint(queries, database),
        **chosen,
    )
    reranked, found = run()
    weight, figures = settings["weight"], {}
    if labels is not None:
        figures = _fit(ranking, found, labels, least)
        if settings["score"] == "combined" and not message.rerank.HasField("weight"):
            weight = figures["fitted"]["weight"]
            reranked, _ = run(weight=weight)
        truth = folder.ground_truth(
            ranking.query_ids, ranking.database_ids, labels, ranking.left_out
        )
        figures["mAP"] = metrics.evaluate_ranking(reranked, truth).mAP
    facts = {
        "score": settings["score"],
        "weight": weight if settings["score"] == "combined" else None,
        "num_candidates": settings["num_candidates"],
        "min_inliers": least if isinstance(least, int) else chance.describe(least),
        "blind_reranking": True,
        "queries_cropped": ranking_file.load_ranking_metadata(ranking_path).get("queries_cropped"),
        **figures,
    }
    path = ranking_file.save_ranking(output, reranked, fingerprint=database.fingerprint, **facts)
    return {"path": str(path), "verifications_dir": str(kept), **facts}


def summary(result: Mapping[str, Any]) -> list[str]:
    """Returns what `rerank` returned, as lines to read."""
    lines = [result["path"]]
    if "fitted" in result:
        fitted = result["fitted"]
        held_out = fitted["held_out_mAP"]
        lines += [
            f"mAP {100 * result['first_stage_mAP']:.2f} -> {100 * result['mAP']:.2f} "
            f"({result['score']}, {fitted['num_queries']} queries)",
            f"fitted weight of inliers {fitted['weight']:.4g}: mAP {100 * fitted['mAP']:.2f}, "
            + ("no second half" if held_out is None else f"held out {100 * held_out:.2f}"),
        ]
    if isinstance(result["min_inliers"], Mapping):
        chance = result["min_inliers"]
        pairs = zip(chance["num_matches"], chance["min_inliers"])
        lines.append("min_inliers by matches: " + ", ".join(f"{m}: {n}" for m, n in pairs))
    return lines


def verify(
    message: experiment_pb2.Experiment,
    ranking: Ranking,
    queries: Queries,
    read_database: Callable[[str], LocalFeatures],
    *,
    num_threads: int = 2,
    **kwargs: Any,
) -> tuple[Ranking, second_stage.Verifications]:
    """Re-ranks with the experiment's settings.

    Args:
      message: the experiment.
      ranking: the first stage's result.
      queries: features of its queries.
      read_database: gives a database image's local features, see `cached_reader`.
      num_threads: that verify pairs.
      **kwargs: of the method's function, instead of the experiment's.

    Returns:
      The new ranking, and what was found for each query's candidates.

    Raises:
      InputError: a setting out of range, an image of the ranking that has no features.
    """
    return method(message)(
        ranking, queries.read_local, read_database, num_threads=num_threads, **kwargs
    )


def _by_verification(message: experiment_pb2.Experiment) -> Reranker:
    return functools.partial(second_stage.rerank, **rerank_arguments(message))


# Puts a head in a new order: a function of (ranking, query reader, database reader) and of the
# keywords num_threads, verifications_dir and fingerprint, as `retrieval.second_stage.rerank` is.
Reranker = Callable[..., tuple[Ranking, second_stage.Verifications]]
# rerank.method -> what makes the function, its settings bound, from an experiment. A new method is
# such a function and a row here.
METHODS: dict[str, Callable[[experiment_pb2.Experiment], Reranker]] = {
    "verification": _by_verification,
}


def method(message: experiment_pb2.Experiment) -> Reranker:
    """Returns what re-ranks as the experiment says.

    Raises:
      InputError: a method that is not there, or a setting that it cannot take.
    """
    name = message.rerank.method
    require_choice("method", name, METHODS)
    return METHODS[name](message)


def cached_reader(database: FeatureStore) -> Callable[[str], LocalFeatures]:
    """Returns what reads an image's local features and keeps those read last decoded."""
    return functools.lru_cache(_CACHED_IMAGES)(database.read_local)


def features_fingerprint(queries: FeatureStore, database: FeatureStore) -> str:
    """Returns the fingerprint that verifications of these features are kept by."""
    return f"{queries.identity()} {database.identity()}"


def rerank_arguments(message: experiment_pb2.Experiment) -> dict[str, Any]:
    """Returns the keyword arguments of `retrieval.second_stage.rerank` that the config means."""
    settings = config.arguments(message.rerank, second_stage.rerank)
    names = ("num_candidates", "min_inliers", "score", "weight")
    arguments = {**{name: settings[name] for name in names}, **verify_options(message)}
    if message.rerank.HasField("probability"):
        fitted = config.arguments(message.rerank.probability, PairProbability)
        arguments["probability"] = PairProbability(**fitted)
    return arguments


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
    options = {**rerank_arguments(message), "score": "inliers"}
    _, found = second_stage.rerank(
        ranking,
        database.read_local,
        cached_reader(database),
        num_threads=num_threads,
        verifications_dir=verifications_dir,
        fingerprint=features_fingerprint(database, database),
        **options,
    )
    given = options.get("probability", PairProbability(0, 0))
    return fit_pair_probability(
        scene_pairs(ranking, found, labels),
        chance_inliers=given.chance_inliers,
        chance_share=given.chance_share,
        evidence_ratio=evidence_ratio,
    )


def verify_options(message: experiment_pb2.Experiment) -> dict[str, Any]:
    """Returns the keyword arguments of `matching.verify`; what is not set keeps its default."""
    names = ("transform", "max_descriptor_distance", "max_ratio", "mutual")
    names += ("inlier_threshold_px", "inlier_threshold_share")
    given = config.set_fields(message.rerank)
    options = {_ARGUMENTS.get(name, name): given[name] for name in names if name in given}
    return {"seed": message.rerank.seed, **options}


def _fit(
    ranking: Ranking,
    found: second_stage.Verifications,
    labels: Mapping[str, str],
    min_inliers: int | ChanceInliers,
) -> dict[str, Any]:
    """Fits the weight of the score "combined" and reports it.

    Returns:
      first_stage_mAP, and fitted: its weight, its mAP on the queries that it was fitted to, and
      held_out_mAP, where each half of the places is scored with the other half's weight.
    """
    truth = folder.ground_truth(ranking.query_ids, ranking.database_ids, labels, ranking.left_out)
    fitted = combination.fit_weight(ranking, found, truth, min_inliers=min_inliers)
    groups = folder.places(ranking.query_ids, labels)
    return {
        "first_stage_mAP": metrics.evaluate_ranking(ranking, truth).mAP,
        "fitted": {
            "weight": fitted.weight,
            "mAP": fitted.mAP,
            "held_out_mAP": combination.held_out_map(
                ranking, found, truth, groups, min_inliers=min_inliers
            ),
            "num_queries": fitted.num_queries,
        },
    }
