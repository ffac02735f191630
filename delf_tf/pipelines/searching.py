"""Features to rankings: the first stage, and a trial run of a config's stages."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging

from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.features import agreement
from delf_tf.features.sources import Source
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import indexing, reranking
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval.search import Index
from delf_tf.types import GlobalDescriptors, LocalFeatures, Ranking

_SAMPLE_IDS = ("0", "1", "2")


def search(
    message: experiment_pb2.Experiment,
    output: StrPath,
    *,
    index: StrPath | None = None,
    database: FeatureStore | None = None,
    queries: FeatureStore | None = None,
    allow_mixed: FeatureStore | None = None,
) -> Path:
    """Ranks a database for every query and writes the ranking.

    Args:
      message: the experiment.
      output: of the ranking (.npz).
      index: what `build_index` wrote; None builds one of `database`, which is not kept.
      database: the features of the database; with an index they are only needed without queries,
        or to give an index of codes alone its vectors.
      queries: None: every image of the database queries the rest.
      allow_mixed: see `require_same_features`.

    Returns:
      `output`.

    Raises:
      InputError: no index, a damaged one, or features that were made differently.
    """
    asked = database if queries is None else queries
    if index is None:
        require_same_features(asked, database, allow_mixed)
        opened = indexing.index_store(message, database)
    else:
        made_by = asked
        if allow_mixed is not None:
            require(
                database is not None,
                "The database's features must be given to measure what is allowed to be mixed.",
                hint="--database_store",
            )
            require_same_features(asked, database, allow_mixed)
            made_by = database
        opened = indexing.open_index(
            message, index, fingerprint=made_by.fingerprint, database=database
        )
    ranking = rank(message, opened, database, queries)
    return ranking_file.save_ranking(output, ranking, fingerprint=asked.fingerprint)


def rank(
    message: experiment_pb2.Experiment,
    index: Index,
    database: FeatureStore | None,
    queries: FeatureStore | None,
    *,
    leave_out_same: bool = True,
) -> Ranking:
    """Ranks an index's images for every query; without queries, for every image of the database.

    Args:
      message: the experiment.
      index: of the database.
      database: None: it is not known what its images' files were.
      queries: None: every image of the database.
      leave_out_same: whether the images of a query's very content are left out of its results.

    Raises:
      InputError: see `retrieval.search.Index.search`.
    """
    asked = database if queries is None else queries
    selves = True if queries is None else leave_out_same and same_pictures(database, queries)
    return index.search(asked, message.index.max_results, exclude_self=selves)


# Of one run's stores it is asked for each pipeline, and while the search is timed.
@functools.lru_cache(maxsize=2)
def same_pictures(
    database: FeatureStore | None, queries: FeatureStore | None
) -> dict[str, list[str]]:
    """Returns by query id the database's images whose files have the query's very content.

    Stores that do not record their images' files have none.
    """
    if database is None or queries is None:
        return {}
    asked = dict(queries.sources())
    by_content: dict[Source, list[str]] = {source: [] for source in asked.values()}
    for one, source in database.sources():
        if source in by_content:
            by_content[source].append(one)
    same = {one: by_content[source] for one, source in asked.items() if by_content[source]}
    if same:
        first = next(iter(same))
        logging.info(
            "%d queries are images of the database too, such as %s, there %s: each is left out of "
            "its own results.",
            len(same),
            first,
            same[first][0],
        )
    return same


def require_same_features(
    queries: FeatureStore, database: FeatureStore, allow_mixed: FeatureStore | None = None
) -> None:
    """Refuses to compare features that were made differently.

    Args:
      queries: features.
      database: features.
      allow_mixed: some of the database's images, extracted as the queries were; features made by
        another engine or in another precision are compared if these are near the database's.

    Raises:
      InputError: stores of different fingerprints, or features that are not near.
    """
    if allow_mixed is not None and queries.fingerprint != database.fingerprint:
        require_same_features(queries, allow_mixed)
        agreement.require_near(agreement.measure_cosines(allow_mixed, database))
        return
    require(
        queries.fingerprint == database.fingerprint,
        "Queries and database must be extracted with the same model and settings.",
        hint="Extract both with the same config, weights and PCA.",
        queries=queries.fingerprint,
        database=database.fingerprint,
    )


def rehearse(message: experiment_pb2.Experiment) -> None:
    """Runs a config's search and re-ranking on three made-up images.

    Not tried is what needs real features: whitenings, faiss's and the indexes of local features.

    Raises:
      InputError: stages that do not fit together, or a setting out of range.
    """
    indexing.check_stages(message)
    sample = _Sample()
    ranking = Ranking(
        _SAMPLE_IDS, _SAMPLE_IDS, np.array([[1, 2], [0, 2], [0, 1]]), np.ones((3, 2), np.float32)
    )
    tried = experiment_pb2.Experiment()
    tried.CopyFrom(message)
    if not indexing.by_local_features(message):
        tried.index.type = "exact"
        tried.index.ClearField("whitening")
        ranking = rank(tried, indexing.index_store(tried, sample), sample, None)
    if message.HasField("rerank"):
        tried.rerank.ClearField("database_pairs")
        reranking.method(tried, sample)(
            ranking, sample.read_local, sample.read_local, num_threads=1
        )


class _Sample:
    """Three images with global descriptors and no local feature, as a FeatureStore has them."""

    fingerprint = ""

    def ids(self) -> tuple[str, ...]:
        return _SAMPLE_IDS

    def identity(self) -> str:
        return ""

    def global_descriptors(self) -> GlobalDescriptors:
        return GlobalDescriptors(_SAMPLE_IDS, np.eye(len(_SAMPLE_IDS), dtype=np.float32))

    def global_blocks(self) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        yield _SAMPLE_IDS, self.global_descriptors().vectors

    def read_local(self, name: str) -> LocalFeatures:
        del name
        return LocalFeatures(np.zeros((0, 2)), np.zeros((0, 8)), np.zeros(0), np.zeros(0))
