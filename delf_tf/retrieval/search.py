"""Opens and searches any index through one interface."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import invalid, require
from delf_tf.features.blocks import ImageFeatures
from delf_tf.features.store import FeatureStore
from delf_tf.retrieval import local_search
from delf_tf.retrieval.local_index import LocalFeatureIndex
from delf_tf.retrieval.rankings import Selves, cut, num_selves, without_self
from delf_tf.retrieval.vectors.first_stage import Arguments, search_first_stage
from delf_tf.retrieval.vectors.index import load_index
from delf_tf.retrieval.vectors.vector_index import VectorIndex
from delf_tf.retrieval.vectors.whitening import Whitening
from delf_tf.types import GlobalDescriptors, LocalFeatures, Ranking

# Queries whose local features are in memory together.
_BLOCK = 64


class Queries(Protocol):
    """The features of the images that are searched with; a FeatureStore is one."""

    def ids(self) -> Sequence[str]:
        """Returns the Q ids."""

    def global_descriptors(self) -> GlobalDescriptors:
        """Returns the Q global descriptors, in the order of the ids."""

    def read_local(self, name: str) -> LocalFeatures:
        """Returns the local features of an id."""


@dataclasses.dataclass(frozen=True, eq=False)
class OneQuery:
    """The features of one image, in memory; see Queries."""

    name: str
    features: ImageFeatures

    def ids(self) -> tuple[str, ...]:
        """Returns its one id."""
        return (self.name,)

    def global_descriptors(self) -> GlobalDescriptors:
        """Returns its global descriptor.

        Raises:
          InputError: it was extracted without.
        """
        vector = self.features.global_descriptor
        if vector is None:
            raise invalid("The query must have a global descriptor.", query=self.name)
        return GlobalDescriptors(self.ids(), vector[None])

    def read_local(self, name: str) -> LocalFeatures:
        """Returns its local features.

        Raises:
          InputError: it was extracted without.
        """
        if self.features.local is None:
            raise invalid("The query must have local features.", query=name)
        return self.features.local


class Index(Protocol):
    """A database that can be searched."""

    def search(
        self, queries: Queries, max_results: int, *, exclude_self: Selves = False
    ) -> Ranking:
        """Ranks the database for each query.

        Args:
          queries: their features, made as the database's were.
          max_results: results a query; fewer if there are fewer images.
          exclude_self: leave out the image whose id is the query's, or those named by query id.

        Raises:
          InputError: an empty index, a count out of range, queries without the features that the
            index compares.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class GlobalSearch:
    """An index of global descriptors with the stages around it; see `search_first_stage`."""

    index: VectorIndex
    query_expansion: Arguments | None = None
    global_rerank: Arguments | None = None

    def search(
        self, queries: Queries, max_results: int, *, exclude_self: Selves = False
    ) -> Ranking:
        """See Index."""
        return search_first_stage(
            self.index,
            queries.global_descriptors(),
            max_results,
            exclude_self=exclude_self,
            query_expansion=self.query_expansion,
            global_rerank=self.global_rerank,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class LocalSearch:
    """An index of local features; a few queries' features are in memory at a time."""

    index: LocalFeatureIndex

    def search(
        self, queries: Queries, max_results: int, *, exclude_self: Selves = False
    ) -> Ranking:
        """See Index."""
        require(max_results >= 1, "max_results must be 1 or more.", max_results=max_results)
        index, ids, read = self.index, queries.ids(), local_descriptors(queries)
        limit = max(1, min(max_results, len(index) - num_selves(exclude_self)))
        depth = min(limit + num_selves(exclude_self), max(len(index), 1))
        parts = [
            index.search([(one, read(one)) for one in ids[start : start + _BLOCK]], depth)
            for start in range(0, max(len(ids), 1), _BLOCK)
        ]
        ranking = Ranking(
            tuple(ids),
            parts[0].database_ids,
            np.concatenate([part.indices for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )
        return cut(without_self(ranking, exclude_self), limit) if exclude_self else ranking


def open_index(
    path: StrPath,
    *,
    fingerprint: str,
    database: FeatureStore | None = None,
    effort: Mapping[str, Any] | None = None,
    whitening: Whitening | None = None,
    **stages: Arguments | None,
) -> Index:
    """Opens an index of any kind.

    Args:
      path: the file or folder that `build_index` wrote, or the address of a collection in Milvus,
        "milvus://HOST:PORT/COLLECTION".
      fingerprint: of the features that it is to be searched with.
      database: the store that it was built of, from which an index of codes alone takes its
        vectors, and an address what its images are; None leaves it without.
      effort: arguments of `VectorIndex.set_effort`; None keeps what the index was saved with.
      whitening: that a collection was built with; a file knows its own.
      **stages: of `GlobalSearch`; an index of local features has none.

    Raises:
      InputError: no index, a damaged one, or one of other features or of another store.
    """
    if local_search.is_local(path):
        return LocalSearch(local_search.load_local(path, fingerprint=fingerprint))
    if "://" in str(path):
        index = _open_address(str(path), database, fingerprint, whitening)
    else:
        index = load_index(path, fingerprint=fingerprint)
    index.set_effort(**(effort or {}))
    if database is not None and index.lacks_vectors:
        require(
            database.ids() == index.ids and database.fingerprint == index.fingerprint,
            "The index must have been built of this store.",
            hint="Build it again, or give the store that it was built of.",
            store=database.path,
        )
        index.attach(index.whiten(database.global_descriptors()).vectors)
    return GlobalSearch(index, **stages)


def _open_address(
    address: str, database: FeatureStore | None, fingerprint: str, whitening: Whitening | None
) -> VectorIndex:
    from delf_tf.retrieval.vectors import milvus_index  # noqa: PLC0415 - an extra

    if database is None or database.fingerprint != fingerprint:
        raise invalid(
            "An index that is opened by its address must come with the store it was built of.",
            hint="--database_store names it; its features must be made as the queries' are.",
            index=address,
        )
    ids = database.ids()
    ends = [database.read(one).global_descriptor for one in (*ids[:1], *ids[-1:])]
    return milvus_index.open_address(
        address, ids, np.array(ends), fingerprint=fingerprint, whitening=whitening
    )


def local_descriptors(queries: Queries) -> local_search.Reader:
    """Returns a function that gives the local descriptors [N, D] of an id."""

    def read(name: str) -> np.ndarray:
        return queries.read_local(name).descriptors

    return read
