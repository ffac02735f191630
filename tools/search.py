"""search: a feature store or an index in, a ranking out: the first stage alone.

delf_tf search --database_store=STORE --output=ranking.npz [--query_store=STORE]
delf_tf search --index=INDEX --query_store=STORE --output=ranking.npz [--database_store=STORE]

Without --query_store every image of the database queries the rest. An index that was built without
its vectors takes them from --database_store, to score its best results again exactly. The config,
if one is given, says what is done around the search: query expansion, database augmentation (of a
store; an index has been built with it or without), re-ranking by global descriptors.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

from absl import flags

from delf_tf.artifacts import StrPath
from delf_tf.checks import UsageError, require
from delf_tf.features.store import FeatureStore
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import local_search, ranking_file
from delf_tf.retrieval.vectors import first_stage, index
from delf_tf.retrieval.vectors.vector_index import VectorIndex
from delf_tf.tools import build_index, command_line, local_indexes, settings
from delf_tf.types import Ranking

FLAGS = flags.FlagValues()
settings.define_flags(FLAGS)
flags.DEFINE_string("database_store", None, "features of the database", flag_values=FLAGS)
flags.DEFINE_string("index", None, "what build_index made of them", flag_values=FLAGS)
flags.DEFINE_string(
    "query_store",
    None,
    "features of the queries; not given: every image queries the rest",
    flag_values=FLAGS,
)
flags.DEFINE_string("output", None, "the ranking (.npz)", flag_values=FLAGS)
command_line.define_count(
    FLAGS, "max_results", None, "results kept for a query, instead of the config's"
)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    (output,) = command_line.required(flag_values, "output")
    if not (flag_values.database_store or (flag_values.index and flag_values.query_store)):
        raise UsageError("--database_store, or --index and --query_store, must be given.")
    message = settings.optional_experiment(flag_values)
    if flag_values.max_results is not None:
        message.index.max_results = flag_values.max_results
    database = FeatureStore(flag_values.database_store) if flag_values.database_store else None
    queries = FeatureStore(flag_values.query_store) if flag_values.query_store else None
    if flag_values.index:
        ranking = search_index(message, flag_values.index, database, queries)
    else:
        ranking = search_stores(message, database, queries)
    fingerprint = (database if queries is None else queries).fingerprint
    path = ranking_file.save_ranking(output, ranking, fingerprint=fingerprint)
    command_line.write_result(str(path))


def search_stores(
    message: experiment_pb2.Experiment, database: FeatureStore, queries: FeatureStore | None
) -> Ranking:
    """Ranks the database for every query; without queries, for every image of the database.

    Raises:
      InputError: stores made by different models or settings.
    """
    if queries is not None:
        require_same_features(queries, database)
    if local_indexes.is_type(message.index.type):
        return local_indexes.search_stores(message, database, queries)
    made = build_index.build(message, database)
    return first_stage.search_first_stage(
        made,
        (database if queries is None else queries).global_descriptors(),
        message.index.max_results,
        exclude_self=queries is None,
        **settings.search_arguments(message),
    )


def search_index(
    message: experiment_pb2.Experiment,
    path: StrPath,
    database: FeatureStore | None,
    queries: FeatureStore | None,
) -> Ranking:
    """Ranks an index's images for every query; see `open_index`."""
    return open_index(message, path, database, queries)()


def open_index(
    message: experiment_pb2.Experiment,
    path: StrPath,
    database: FeatureStore | None,
    queries: FeatureStore | None,
) -> Callable[[], Ranking]:
    """Loads an index and returns the search for every query.

    Args:
      message: the experiment.
      path: of the index.
      database: what the index was built of; only needed without queries, or to give an index of
        codes alone its vectors.
      queries: or None, and every image of the database queries the rest.

    Raises:
      InputError: no index, a damaged one, or one of other features.
    """
    asked = database if queries is None else queries
    if local_search.is_local(path):
        return local_indexes.open_index(message, path, asked, exclude_self=queries is None)
    made = load_index(message, path, database, fingerprint=asked.fingerprint)
    return functools.partial(
        first_stage.search_first_stage,
        made,
        asked.global_descriptors(),
        message.index.max_results,
        exclude_self=queries is None,
        **settings.search_arguments(message),
    )


def load_index(
    message: experiment_pb2.Experiment,
    path: StrPath,
    database: FeatureStore | None,
    *,
    fingerprint: str,
) -> VectorIndex:
    """Loads an index of global descriptors with the config's effort.

    Args:
      message: the experiment.
      path: of the index.
      database: gives an index of codes alone its vectors; None leaves it without.
      fingerprint: of the features that it is to be searched with.

    Raises:
      InputError: no index, a damaged one, or one of other features.
    """
    made = index.load_index(path, fingerprint=fingerprint)
    settings.set_effort(made, message)
    if database is not None and getattr(made, "keep_vectors", True) is False:
        attach_vectors(made, database)
    return made


def attach_vectors(made: VectorIndex, database: FeatureStore) -> None:
    """Gives an index of codes alone the vectors of the store that it was built of."""
    require(
        database.ids() == made.ids and database.fingerprint == made.fingerprint,
        "The index must have been built of this store.",
        hint="Build it again, or give the store that it was built of.",
        store=database.path,
    )
    made.attach(made.whiten(database.global_descriptors()).vectors)


def require_same_features(queries: FeatureStore, database: FeatureStore) -> None:
    """Refuses to compare features that were made differently."""
    require(
        queries.fingerprint == database.fingerprint,
        "Queries and database must be extracted with the same model and settings.",
        hint="Extract both with the same config, weights and PCA.",
        queries=queries.fingerprint,
        database=database.fingerprint,
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
