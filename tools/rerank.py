"""rerank: a ranking and the features in; its head verified geometrically and put in a new order.

delf_tf rerank --config=CONFIG --ranking=ranking.npz --database_store=STORE --output=reranked.npz
  [--query_store=STORE]    (not given: the queries are database images)
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from delf_tf import matching
from delf_tf.features.store import FeatureStore
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval import rerank as reranking
from delf_tf.tools import command_line, experiment
from delf_tf.types import LocalFeatures, Ranking, Verification

FLAGS = flags.FlagValues()
experiment.define_flags(FLAGS)
flags.DEFINE_string("ranking", None, "the first stage's ranking (.npz)", flag_values=FLAGS)
flags.DEFINE_string("database_store", None, "features of the database", flag_values=FLAGS)
flags.DEFINE_string("query_store", None, "features of the queries", flag_values=FLAGS)
flags.DEFINE_string("output", None, "the new ranking (.npz)", flag_values=FLAGS)
flags.DEFINE_integer("num_threads", 2, "threads that verify pairs", flag_values=FLAGS)

# Database images re-appear in many queries' heads; this many are kept decoded.
_CACHED_IMAGES = 512


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    ranking_path, database_path, output = command_line.required(
        flag_values, "ranking", "database_store", "output"
    )
    database = FeatureStore(database_path)
    queries = FeatureStore(flag_values.query_store) if flag_values.query_store else database
    ranking = rerank_stores(
        experiment.from_flags(flag_values),
        ranking_file.load_ranking(ranking_path),
        queries,
        database,
        num_threads=flag_values.num_threads,
    )
    path = ranking_file.save_ranking(output, ranking, fingerprint=database.fingerprint)
    command_line.write_result(str(path))


def rerank_stores(
    message: experiment_pb2.Experiment,
    ranking: Ranking,
    queries: FeatureStore,
    database: FeatureStore,
    *,
    num_threads: int = 2,
) -> Ranking:
    """Re-ranks with the experiment's settings; features are read from the stores."""
    settings = message.rerank
    reranked, _ = reranking.rerank(
        ranking,
        queries.read_local,
        functools.lru_cache(_CACHED_IMAGES)(database.read_local),
        num_candidates=settings.num_candidates,
        num_threads=num_threads,
        min_inliers=settings.min_inliers,
        score=settings.score,
        weight=settings.weight,
        **verify_options(message),
    )
    return reranked


def verify_options(message: experiment_pb2.Experiment) -> dict[str, Any]:
    """Returns the keyword arguments of matching.verify; what is not set keeps the best default."""
    settings = message.rerank
    options: dict[str, Any] = {"seed": settings.seed}
    for field, name in (
        ("transform", "model"),
        ("max_descriptor_distance", "max_distance"),
        ("max_ratio", "max_ratio"),
        ("mutual", "mutual"),
        ("inlier_threshold_px", "inlier_threshold_px"),
    ):
        if settings.HasField(field):
            options[name] = getattr(settings, field)
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


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
