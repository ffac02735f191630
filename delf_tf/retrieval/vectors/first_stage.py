"""The first stage by global descriptors: search, expansion, SuperGlobal's re-ranking.

Query expansion searches twice; database augmentation changes what is searched; SuperGlobal's
refinement sorts the head again. Each can be left out, and all work in the index's whitened space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from delf_tf.checks import require
from delf_tf.retrieval.rankings import Selves, cut, num_selves
from delf_tf.retrieval.vectors.expansion import (
    NUM_NEIGHBORS,
    augment_database,
    expand_queries,
)
from delf_tf.retrieval.vectors.index import build_index, create_index
from delf_tf.retrieval.vectors.superglobal import NUM_CANDIDATES, rerank_global
from delf_tf.retrieval.vectors.table import VectorTable
from delf_tf.retrieval.vectors.vector_index import VectorIndex
from delf_tf.types import GlobalDescriptors, Ranking

Arguments = Mapping[str, Any]
Blocks = Callable[[], Iterable["tuple[Sequence[str], np.ndarray]"]]


def build_first_stage(
    blocks: Blocks,
    type_: str = "auto",
    *,
    num_images: int,
    database_augmentation: Arguments | None = None,
    learned: VectorIndex | None = None,
    **kwargs: Any,
) -> VectorIndex:
    """Builds an index, of augmented descriptors if that is asked for.

    Args:
      blocks: gives an iterable of (n ids, float32 [n, D]) each time it is called.
      type_: see `create_index`.
      num_images: how many there are in all.
      database_augmentation: arguments of `augment_database`, which needs all descriptors in memory
        at once; None leaves it out.
      learned: see `build_index`.
      **kwargs: see `create_index`.

    Raises:
      InputError: no images, or as `build_index` and `augment_database`.
    """
    if database_augmentation is None:
        return build_index(blocks, type_, num_images=num_images, learned=learned, **kwargs)
    ids: list[str] = []
    vectors: list[np.ndarray] = []
    for some, block in blocks():
        ids.extend(some)
        vectors.append(block)
    require(bool(ids), "An index must be built of at least one image.", num_images=len(ids))
    descriptors = GlobalDescriptors(tuple(ids), np.concatenate(vectors))
    index = create_index(type_, num_images=len(ids), dim=descriptors.vectors.shape[1], **kwargs)
    if learned is not None:
        index.train_as(learned)
    augmented = augment_database(index.whiten(descriptors), **database_augmentation)
    index.add(augmented, whitened=True)
    return index


def search_first_stage(
    index: VectorIndex,
    queries: GlobalDescriptors,
    max_results: int,
    *,
    exclude_self: Selves = False,
    query_expansion: Arguments | None = None,
    global_rerank: Arguments | None = None,
) -> Ranking:
    """Searches, expands the queries and searches again, and refines the head, as asked for.

    Args:
      index: holds at least one image.
      queries: Q descriptors.
      max_results: results a query; fewer if there are fewer images.
      exclude_self: leave out the image whose id is the query's, or those that are named by query
        id, from the neighbours as well.
      query_expansion: arguments of `expand_queries`; None leaves it out.
      global_rerank: arguments of `rerank_global`; None leaves it out.

    Returns:
      The ranking; scores are those of the last search.

    Raises:
      InputError: an empty index, a count out of range, other widths, or a stage that needs the
        vectors of an index that keeps codes alone.
    """
    require(max_results >= 1, "max_results must be 1 or more.", max_results=max_results)
    most = max(1, len(index) - num_selves(exclude_self))
    limit = min(max_results, most)
    if query_expansion is None and global_rerank is None:
        return index.search(queries, limit, exclude_self=exclude_self)
    table = _all_vectors(index)
    queries = index.whiten(queries)
    if query_expansion is not None:
        needed = query_expansion.get("num_neighbors", NUM_NEIGHBORS)
        near = min(max(needed, 1), most)
        found = index.search(queries, near, exclude_self=exclude_self, whitened=True)
        queries = expand_queries(queries, found, table, **query_expansion)
    if global_rerank is None:
        return index.search(queries, limit, exclude_self=exclude_self, whitened=True)
    depth = min(max(limit, global_rerank.get("num_candidates", NUM_CANDIDATES)), most)
    found = index.search(queries, depth, exclude_self=exclude_self, whitened=True)
    return cut(rerank_global(found, queries, table, **global_rerank), limit)


def _all_vectors(index: VectorIndex) -> VectorTable:
    require(
        len(index.vectors) == len(index) > 0,
        "Expansion and global re-ranking must have the vectors of the index's images.",
        hint="Build the index with its vectors, or leave these stages out of the config.",
        num_images=len(index),
        num_vectors=len(index.vectors),
    )
    return index.vectors
