"""Features to rankings: the first stage, a trial run of a config's stages, and groups."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from delf_tf import progress
from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.features import agreement
from delf_tf.features.sources import Source
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import indexing, reranking, stages
from delf_tf.pipelines.extraction import Stores
from delf_tf.protos import experiment_pb2
from delf_tf.report import groups_page
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval.search import Index
from delf_tf.retrieval.second_stage import rerank as second_stage
from delf_tf.retrieval.second_stage.groups import Groups, each_pair_once, find_groups
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
    asked = Stores(database, queries).asked
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
    ranking = rank(message, opened, Stores(database, queries))
    return ranking_file.save_ranking(output, ranking, fingerprint=asked.fingerprint)


def rank(
    message: experiment_pb2.Experiment,
    index: Index,
    stores: Stores,
    *,
    leave_out_same: bool = True,
) -> Ranking:
    """Ranks an index's images for every query; without queries, for every image of the database.

    Args:
      message: the experiment.
      index: of the database.
      stores: the features; a database of None: it is not known what its images' files were.
      leave_out_same: whether the images of a query's very content are left out of its results.

    Raises:
      InputError: see `retrieval.search.Index.search`.
    """
    selves = True if stores.queries is None else leave_out_same and same_pictures(stores)
    return index.search(stores.asked, message.index.max_results, exclude_self=selves)


# Of one run's stores it is asked for each pipeline, and while the search is timed.
@functools.lru_cache(maxsize=2)
def same_pictures(stores: Stores) -> dict[str, list[str]]:
    """Returns by query id the database's images whose files have the query's very content.

    Stores that do not record their images' files have none.
    """
    if stores.database is None or stores.queries is None:
        return {}
    asked = dict(stores.queries.sources())
    by_content: dict[Source, list[str]] = {source: [] for source in asked.values()}
    for one, source in stores.database.sources():
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


class Grouped(NamedTuple):
    """What `group` wrote: the table, the page (None without images), and what was found."""

    labels: Path
    page: Path | None
    groups: Groups


def group(
    message: experiment_pb2.Experiment,
    database: FeatureStore,
    output_dir: StrPath,
    *,
    images_dir: StrPath | None = None,
    num_neighbors: int = 20,
    min_inliers: int = 30,
    duplicate_similarity: float = 0.97,
    num_threads: int = 2,
) -> Grouped:
    """Groups images by place: neighbours by the index, pairs of them verified, what they join.

    Memory grows with images times neighbours, never with images times images.

    Args:
      message: the experiment: index and re-ranking.
      database: features, local ones as well.
      output_dir: receives labels.csv (image; place, empty for an image of its own; duplicate_of),
        index.html and the verifications, from which a run that was killed goes on.
      images_dir: of the images, for the page; None writes none.
      num_neighbors: images that each one is compared with.
      min_inliers: that join two images.
      duplicate_similarity: of the first stage, from which on a joined pair is a near-duplicate.
      num_threads: that verify pairs.

    Raises:
      InputError: fewer than two images, no local features, a setting out of range.
    """
    require(len(database.ids()) >= 2, "There must be two images to group.", path=database.path)
    require(
        images_dir is None or any(Path(images_dir, one).is_file() for one in database.ids()),
        "The images must be where they were.",
        hint="Name the folder that the store was extracted from.",
        images_dir=images_dir,
        id=database.ids()[0],
    )
    folder, settings = Path(output_dir), copy.deepcopy(message)
    settings.index.max_results = settings.rerank.num_candidates = num_neighbors
    ranking = rank(settings, indexing.index_store(settings, database), Stores(database))
    ranking = each_pair_once(ranking)
    read = reranking.cached_reader(database)
    _, found = second_stage.rerank(
        ranking,
        read,
        read,
        num_candidates=num_neighbors,
        num_threads=num_threads,
        verifications_dir=folder / "verifications",
        fingerprint=reranking.heads_identity(settings, ranking, database, database),
        **reranking.verify_options(settings),
    )
    by_content: dict[object, list[str]] = {}
    for one, source in database.sources():
        if one not in database.failed():
            by_content.setdefault(source, []).append(one)
    groups = find_groups(
        ranking,
        found,
        min_inliers=min_inliers,
        duplicate_similarity=duplicate_similarity,
        same_content=[some for some in by_content.values() if len(some) > 1],
    )
    labels = groups_page.write_labels(folder / "labels.csv", database.ids(), groups)
    page = None
    if images_dir is not None:
        page = groups_page.write_page(folder / "index.html", groups, images_dir)
    return Grouped(labels, page, groups)


@progress.hidden()
def rehearse(message: experiment_pb2.Experiment) -> None:
    """Runs a config's search and re-ranking on three made-up images.

    Not tried is what needs real features: whitenings, faiss's and the indexes of local features.

    Raises:
      InputError: stages that do not fit together, or a setting out of range.
    """
    stages.check_stages(message)
    sample = _Sample()
    ranking = Ranking(
        _SAMPLE_IDS, _SAMPLE_IDS, np.array([[1, 2], [0, 2], [0, 1]]), np.ones((3, 2), np.float32)
    )
    tried = copy.deepcopy(message)
    if not stages.by_local_features(message):
        tried.index.type = "exact"
        tried.index.ClearField("whitening")
        ranking = rank(tried, indexing.index_store(tried, sample), Stores(sample))
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
