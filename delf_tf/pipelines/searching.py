"""Features to rankings: the first stage, of stores or of an index."""

from __future__ import annotations

from pathlib import Path

from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import indexing
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval.vectors.search import Index
from delf_tf.types import Ranking


def search(
    message: experiment_pb2.Experiment,
    output: StrPath,
    *,
    index: StrPath | None = None,
    database: FeatureStore | None = None,
    queries: FeatureStore | None = None,
) -> Path:
    """Ranks a database for every query and writes the ranking.

    Args:
      message: the experiment.
      output: of the ranking (.npz).
      index: what `build_index` wrote; None builds one of `database`, which is not kept.
      database: the features of the database; with an index they are only needed without queries,
        or to give an index of codes alone its vectors.
      queries: None: every image of the database queries the rest.

    Returns:
      `output`.

    Raises:
      InputError: no index, a damaged one, or features that were made differently.
    """
    asked = database if queries is None else queries
    if index is None:
        require_same_features(asked, database)
        opened = indexing.index_store(message, database)
    else:
        opened = indexing.open_index(
            message, index, fingerprint=asked.fingerprint, database=database
        )
    ranking = rank(message, opened, database, queries)
    return ranking_file.save_ranking(output, ranking, fingerprint=asked.fingerprint)


def rank(
    message: experiment_pb2.Experiment,
    index: Index,
    database: FeatureStore | None,
    queries: FeatureStore | None,
) -> Ranking:
    """Ranks an index's images for every query; without queries, for every image of the database.

    Raises:
      InputError: see `retrieval.search.Index.search`.
    """
    asked = database if queries is None else queries
    return index.search(asked, message.index.max_results, exclude_self=queries is None)


def require_same_features(queries: FeatureStore, database: FeatureStore) -> None:
    """Refuses to compare features that were made differently.

    Raises:
      InputError: stores of different fingerprints.
    """
    require(
        queries.fingerprint == database.fingerprint,
        "Queries and database must be extracted with the same model and settings.",
        hint="Extract both with the same config, weights and PCA.",
        queries=queries.fingerprint,
        database=database.fingerprint,
    )
