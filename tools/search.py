"""search: a feature store in, a ranking out: the first stage alone.

delf_tf search --database_store=STORE --output=ranking.npz [--query_store=STORE]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from delf_tf.checks import require
from delf_tf.features.store import FeatureStore
from delf_tf.retrieval import index, ranking_file
from delf_tf.tools import command_line
from delf_tf.types import Ranking

FLAGS = flags.FlagValues()
flags.DEFINE_string("database_store", None, "features of the database", flag_values=FLAGS)
flags.DEFINE_string(
    "query_store",
    None,
    "features of the queries; not given: every image queries the rest",
    flag_values=FLAGS,
)
flags.DEFINE_string("output", None, "the ranking (.npz)", flag_values=FLAGS)
flags.DEFINE_integer("max_results", 10000, "results kept for a query", flag_values=FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    database_path, output = command_line.required(flag_values, "database_store", "output")
    database = FeatureStore(database_path)
    queries = FeatureStore(flag_values.query_store) if flag_values.query_store else None
    ranking = search_stores(database, queries, max_results=flag_values.max_results)
    path = ranking_file.save_ranking(output, ranking, fingerprint=database.fingerprint)
    command_line.write_result(str(path))


def search_stores(
    database: FeatureStore, queries: FeatureStore | None, *, max_results: int
) -> Ranking:
    """Ranks the database for every query; without queries, for every image of the database.

    Raises:
      InputError: stores made by different models or settings.
    """
    made = index.ExactIndex(fingerprint=database.fingerprint)
    descriptors = database.global_descriptors()
    made.add(descriptors)
    if queries is None:
        limit = max(1, min(max_results, len(descriptors) - 1))
        return made.search(descriptors, limit, exclude_self=True)
    require_same_features(queries, database)
    return made.search(queries.global_descriptors(), min(max_results, len(descriptors)))


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
