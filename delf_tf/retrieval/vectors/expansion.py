"""Query expansion (αQE) and database augmentation."""

from __future__ import annotations

import numpy as np

from delf_tf.checks import as_array, require
from delf_tf.retrieval.vectors.table import VectorTable
from delf_tf.retrieval.vectors.topk import search_blocks
from delf_tf.retrieval.vectors.whitening import l2_normalize
from delf_tf.types import GlobalDescriptors, Ranking

NUM_NEIGHBORS = 10
_BATCH = 64


def expand_queries(
    queries: GlobalDescriptors,
    ranking: Ranking,
    database: np.ndarray | VectorTable,
    *,
    num_neighbors: int = NUM_NEIGHBORS,
    alpha: float = 3.0,
) -> GlobalDescriptors:
    """Adds to each query its best images: q ← L2(q + Σ_i max(q · x_i, 0)^α x_i).

    Radenović et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019; α = 0
    is the average query expansion of Chum et al., ICCV 2007. Search again with what this returns.

    Args:
      queries: Q descriptors.
      ranking: their first search; the order says which images are added.
      database: float32 [N, D], the vectors of the ranking's `database_ids`; may be mapped, or an
        index's table.
      num_neighbors: images added.
      alpha: how strongly nearer images weigh more.

    Raises:
      InputError: a ranking of other queries or another database, a negative argument.
    """
    _check(num_neighbors, alpha)
    require(
        queries.ids == ranking.query_ids,
        "The ranking must be of these queries, in their order.",
        num_queries=len(queries),
        num_ranked=len(ranking.query_ids),
    )
    check_database(database, len(ranking.database_ids), queries.vectors.shape[1])
    rows = ranking.indices[:, :num_neighbors]
    return GlobalDescriptors(queries.ids, _blend(queries.vectors, rows, database, alpha))


def augment_database(
    descriptors: GlobalDescriptors, *, num_neighbors: int = NUM_NEIGHBORS, alpha: float = 3.0
) -> GlobalDescriptors:
    """Adds to each database image its nearest others, as `expand_queries` does to a query.

    Turcot and Lowe, "Better Matching with Fewer Features", ICCV-W 2009. Build the index of what
    this returns; it is done once, by exact search.

    Args:
      descriptors: N descriptors.
      num_neighbors: images added; with fewer others, those.
      alpha: how strongly nearer images weigh more.

    Raises:
      InputError: a negative argument.
    """
    _check(num_neighbors, alpha)
    depth = min(num_neighbors + 1, len(descriptors))
    if depth < 2:
        return descriptors
    table = VectorTable()
    table.append(descriptors.vectors)
    rows, _ = search_blocks(table, descriptors.vectors, depth)
    # An image need not come first in its own list: others may be equal to it.
    own = rows == np.arange(len(rows))[:, None]
    others = np.take_along_axis(rows, np.argsort(own, axis=1, kind="stable"), axis=1)[:, :-1]
    vectors = _blend(descriptors.vectors, others, descriptors.vectors, alpha)
    return GlobalDescriptors(descriptors.ids, vectors)


def check_database(database: np.ndarray | VectorTable, num_images: int, dim: int) -> None:
    """Requires `database` to hold the vectors of a ranking's images, without reading them."""
    require(
        getattr(database, "ndim", 0) == 2 and database.shape == (num_images, dim),
        f"database must have shape [{num_images}, {dim}].",
        hint="Give the vectors of the ranking's database_ids, in their order.",
        database=database,
    )


def _blend(
    vectors: np.ndarray, rows: np.ndarray, database: np.ndarray | VectorTable, alpha: float
) -> np.ndarray:
    blended = np.empty_like(vectors)
    for start in range(0, len(vectors), _BATCH):
        batch = slice(start, start + _BATCH)
        own, found = vectors[batch].astype(np.float64), rows[batch]
        neighbours = np.asarray(database[np.maximum(found, 0)], np.float64)
        similarity = np.maximum(np.einsum("qkd,qd->qk", neighbours, own), 0)
        weights = np.where(found >= 0, similarity**alpha, 0)
        blended[batch] = l2_normalize(own + np.einsum("qk,qkd->qd", weights, neighbours))
    return blended


def _check(num_neighbors: int, alpha: float) -> None:
    require(num_neighbors >= 0, "num_neighbors must be 0 or more.", num_neighbors=num_neighbors)
    as_array("alpha", alpha, ())
    require(alpha >= 0, "alpha must be 0 or more.", alpha=alpha)
