"""rerank: a ranking and the features in; its head verified geometrically and put in a new order.

delf_tf rerank --ranking=ranking.npz --database_store=STORE --output=reranked.npz
  [--query_store=STORE] [--config=CONFIG] [--score=combined] [--labels=labels.csv]
  [--calibrate=300]

Without --query_store the queries are database images. Every verification is kept in a folder beside
the output; a run that was killed goes on from there, and another --score or --min_inliers costs no
new verification. --calibrate verifies that many pairs of images that do not match, and counts that
chance reaches then move nothing. --labels (columns image, place) report mAP before and after, and
with --score=combined fit the weight of the inliers, unless one is given.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from delf_tf.datasets import folder
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines.reranking import rerank
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS, weights=False)
flags.DEFINE_string("ranking", None, "the first stage's ranking (.npz)", flag_values=FLAGS)
flags.DEFINE_string("database_store", None, "features of the database", flag_values=FLAGS)
flags.DEFINE_string("query_store", None, "features of the queries", flag_values=FLAGS)
flags.DEFINE_string("output", None, "the new ranking (.npz)", flag_values=FLAGS)
command_line.define_count(FLAGS, "num_threads", 2, "threads that verify pairs")
command_line.define_count(FLAGS, "num_candidates", None, "instead of the config's", least=0)
flags.DEFINE_string(
    "score", None, "inliers, weighted or combined, instead of the config's", flag_values=FLAGS
)
flags.DEFINE_float(
    "weight", None, "of the inliers in combined, instead of the config's", flag_values=FLAGS
)
command_line.define_count(FLAGS, "min_inliers", None, "instead of the config's", least=0)
command_line.define_count(
    FLAGS, "calibrate", 0, "pairs that do not match to learn min_inliers from; 0: no", least=0
)
flags.DEFINE_string("labels", None, "CSV with columns image and place", flag_values=FLAGS)
flags.DEFINE_string(
    "verifications_dir",
    None,
    "folder of the verifications; not given: the output's name with .verifications",
    flag_values=FLAGS,
)
flags.DEFINE_boolean("overwrite", False, "verify anew", flag_values=FLAGS)
flags.DEFINE_boolean("json", False, "print JSON instead of lines", flag_values=FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    ranking, database, output = command_line.required(
        flag_values, "ranking", "database_store", "output"
    )
    message = command_line.read_config(flag_values, optional=True)
    names = ("num_candidates", "score", "weight", "min_inliers")
    command_line.override_by_flags(flag_values, message.rerank, *names)
    result = rerank(
        message,
        ranking,
        output,
        database=FeatureStore(database),
        queries=FeatureStore(flag_values.query_store) if flag_values.query_store else None,
        labels=folder.read_labels(flag_values.labels) if flag_values.labels else None,
        num_calibration_pairs=flag_values.calibrate,
        verifications_dir=flag_values.verifications_dir or None,
        overwrite=flag_values.overwrite,
        num_threads=flag_values.num_threads,
    )
    command_line.write_result(
        command_line.to_json(result) if flag_values.json else "\n".join(_lines(result))
    )


<<<<<<< HEAD
=======
def verify_stores(
    message: experiment_pb2.Experiment,
    ranking: Ranking,
    queries: FeatureStore,
    database: FeatureStore,
    *,
    num_threads: int = 2,
    min_inliers: int | ChanceInliers | None = None,
    verifications_dir: StrPath | None = None,
) -> tuple[Ranking, reranking.Verifications]:
    """Re-ranks with the experiment's settings; features are read from the stores.

    Args:
      message: the experiment.
      ranking: the first stage's result.
      queries: features of its queries.
      database: features of its database.
      num_threads: that verify pairs.
      min_inliers: counts below this are taken for chance; None: the experiment's.
      verifications_dir: keeps the verifications, and is gone on from; None: memory.

    Returns:
      The new ranking, and what was found for each query's candidates.

    Raises:
      InputError: a setting out of range, an image of the ranking that a store lacks.
    """
    arguments = rerank_arguments(message)
    if min_inliers is not None:
        arguments["min_inliers"] = min_inliers
    return reranking.rerank(
        ranking,
        queries.read_local,
        cached_reader(database),
        num_threads=num_threads,
        verifications_dir=verifications_dir,
        fingerprint=f"{queries.identity()} {database.identity()}",
        **arguments,
    )


def cached_reader(database: FeatureStore) -> Callable[[str], LocalFeatures]:
    """Returns what reads an image's local features and keeps those read last decoded."""
    return functools.lru_cache(_CACHED_IMAGES)(database.read_local)


def rerank_arguments(message: experiment_pb2.Experiment) -> dict[str, Any]:
    """Returns the keyword arguments of retrieval.rerank that the config names."""
    return {
        "num_candidates": message.rerank.num_candidates,
        "min_inliers": message.rerank.min_inliers,
        "score": message.rerank.score,
        "weight": message.rerank.weight,
        **verify_options(message),
    }


def fit(
    ranking: Ranking,
    found: reranking.Verifications,
    labels: Mapping[str, str],
    min_inliers: int | ChanceInliers,
) -> dict[str, Any]:
    """Fits the weight of the score "combined" and reports it.

    Returns:
      first_stage_mAP, and fitted: its weight, its mAP on the queries that it was fitted to, and
      held_out_mAP, where each half of the places is scored with the other half's weight.
    """
    truth = folder.ground_truth(ranking.query_ids, ranking.database_ids, labels)
    fitted = inlier_weight.fit_weight(ranking, found, truth, min_inliers=min_inliers)
    groups = folder.places(ranking.query_ids, labels)
    return {
        "first_stage_mAP": metrics.evaluate_ranking(ranking, truth).mAP,
        "fitted": {
            "weight": fitted.weight,
            "mAP": fitted.mAP,
            "held_out_mAP": inlier_weight.held_out_map(
                ranking, found, truth, groups, min_inliers=min_inliers
            ),
            "num_queries": fitted.num_queries,
        },
    }


def verify_options(message: experiment_pb2.Experiment) -> dict[str, Any]:
    """Returns the keyword arguments of matching.verify; what is not set keeps the best default."""
    rerank_settings = message.rerank
    options: dict[str, Any] = {"seed": rerank_settings.seed}
    for field, name in (
        ("transform", "model"),
        ("max_descriptor_distance", "max_distance"),
        ("max_ratio", "max_ratio"),
        ("mutual", "mutual"),
        ("inlier_threshold_px", "inlier_threshold_px"),
    ):
        if rerank_settings.HasField(field):
            options[name] = getattr(rerank_settings, field)
    return options


def pair_verifier(
    message: experiment_pb2.Experiment, queries: FeatureStore, database: FeatureStore
) -> Callable[[str, str], tuple[LocalFeatures, LocalFeatures, Verification]]:
    """Returns a function of a query's and a database image's id that verifies the pair."""
    options = verify_options(message)

    def verify(
        query_id: str, database_id: str
    ) -> tuple[LocalFeatures, LocalFeatures, Verification]:
        query, hit = queries.read_local(query_id), database.read_local(database_id)
        return query, hit, matching.verify(query, hit, **options)

    return verify


def _experiment(flag_values: flags.FlagValues) -> experiment_pb2.Experiment:
    message = settings.optional_experiment(flag_values)
    for name in ("num_candidates", "score", "weight", "min_inliers"):
        if flag_values[name].value is not None:
            setattr(message.rerank, name, flag_values[name].value)
    kept = _folder(flag_values)
    if flag_values.overwrite and (kept / "manifest.json").is_file():
        load_verifications(kept)
        shutil.rmtree(kept)
    return message


def _folder(flag_values: flags.FlagValues) -> Path:
    return Path(
        flag_values.verifications_dir or Path(flag_values.output).with_suffix(".verifications")
    )


def _chance(
    flag_values: flags.FlagValues,
    message: experiment_pb2.Experiment,
    stage: tuple[Ranking, FeatureStore, FeatureStore],
    labels: Mapping[str, str] | None,
) -> int | ChanceInliers:
    """Returns the counts that are taken for chance: the config's, or those of --calibrate."""
    if not flag_values.calibrate:
        return message.rerank.min_inliers
    return calibration.chance_inliers(
        *stage,
        num_pairs=flag_values.calibrate,
        num_candidates=message.rerank.num_candidates,
        labels=labels,
        options=verify_options(message),
        num_threads=flag_values.num_threads,
    )


>>>>>>> b74b9ab (Stores know the files of their images: what was replaced is named)
def _lines(result: Mapping[str, Any]) -> list[str]:
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


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
