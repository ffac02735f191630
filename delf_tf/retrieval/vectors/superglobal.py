"""Re-ranking by global descriptors alone.

Shao et al., "Global Features are All You Need for Image Retrieval and Reranking" (SuperGlobal),
ICCV 2023, in the form of its released code: the neighbours that refine the candidates are weighted
by β times their similarity, and the query itself takes no part in the expanded query.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from delf_tf.checks import require
from delf_tf.retrieval.ordering import descending, first_largest
from delf_tf.retrieval.vectors.expansion import check_database
from delf_tf.retrieval.vectors.table import VectorTable
from delf_tf.types import GlobalDescriptors, Ranking

NUM_CANDIDATES = 400

# The paper's K, for collections of 5,000 images (revisited Oxford and Paris) and more.
PAPER_NEIGHBOURS = 9
_IMAGES_A_NEIGHBOUR = 500


def rerank_global(
    ranking: Ranking,
    queries: GlobalDescriptors,
    database: np.ndarray | VectorTable,
    *,
    num_candidates: int = NUM_CANDIDATES,
    num_neighbors: int | None = None,
    beta: float = 0.15,
) -> Ranking:
    """Sorts the head of every row by refined descriptors; the rest follows unchanged.

    Each of the M candidates is replaced by the weighted mean of itself, weight 1, and its K nearest
    among the M, weight β · similarity. s1 = query · refined; the expanded query is the element-wise
    maximum of the K + 1 refined descriptors with the largest s1; s2 = expanded · refined; the head
    is sorted by (s1 + s2) / 2. Scores stay those of the first stage.

    Args:
      ranking: the first stage's result.
      queries: its queries' descriptors, in its order.
      database: float32 [N, D], the vectors of the ranking's `database_ids`; may be mapped, or an
        index's table.
      num_candidates: M.
      num_neighbors: K; None: `neighbours_of` the collection's size.
      beta: β.

    Raises:
      InputError: descriptors of other queries or another database, a count out of range.
    """
    require(num_candidates >= 0, "num_candidates must be 0 or more.", num_candidates=num_candidates)
    if num_neighbors is None:
        num_neighbors = neighbours_of(len(ranking.database_ids))
    require(num_neighbors >= 0, "num_neighbors must be 0 or more.", num_neighbors=num_neighbors)
    require(
        queries.ids == ranking.query_ids,
        "queries must be those of the ranking, in its order.",
        num_queries=len(queries),
        num_ranked=len(ranking.query_ids),
    )
    check_database(database, len(ranking.database_ids), queries.vectors.shape[1])
    indices, scores = ranking.indices.copy(), ranking.scores.copy()
    for row, query in enumerate(queries.vectors):
        head = int((indices[row, :num_candidates] >= 0).sum())
        candidates = np.asarray(database[indices[row, :head]], np.float32)
        refined = refined_scores(query, candidates, num_neighbors=num_neighbors, beta=beta)
        order = descending(refined)
        indices[row, :head] = indices[row, order]
        scores[row, :head] = scores[row, order]
    return dataclasses.replace(ranking, indices=indices, scores=scores)


def neighbours_of(num_images: int) -> int:
    """Returns K for a collection: the paper's 9 from 4,500 images on, fewer in smaller ones.

    The K nearest are taken for images of the candidate's own place. In a small collection a place
    has few, and the expanded query, a maximum, takes over what the others show: with K = 9 mAP fell
    by .034 on 384 photographs with two to a place, with K = 1 by .001.
    """
    return min(PAPER_NEIGHBOURS, max(1, num_images // _IMAGES_A_NEIGHBOUR))


def refined_scores(
    query: np.ndarray,
    candidates: np.ndarray,
    *,
    num_neighbors: int = PAPER_NEIGHBOURS,
    beta: float = 0.15,
) -> np.ndarray:
    """Returns float64 [M], (s1 + s2) / 2 of `rerank_global`, for one query.

    Args:
      query: float32 [D].
      candidates: float32 [M, D], M may be 0.
      num_neighbors: K.
      beta: β.
    """
    if not len(candidates):
        return np.zeros(0)
    # In float32, equal candidates would come out unequal, by their place in the product.
    candidates, query = candidates.astype(np.float64), query.astype(np.float64)
    weights = refinement_weights(candidates, num_neighbors, beta)
    # The refined descriptors are weights @ candidates; only the first few are ever made.
    first = weights @ (candidates @ query)
    best = descending(first)[: num_neighbors + 1]
    expanded = (weights[best] @ candidates).max(axis=0)
    second = weights @ (candidates @ expanded)
    return (first + second) / 2


def refinement_weights(candidates: np.ndarray, num_neighbors: int, beta: float) -> np.ndarray:
    """Returns float64 [M, M]: row i makes candidate i's refined descriptor of all candidates."""
    candidates = candidates.astype(np.float64, copy=False)
    similarity = candidates @ candidates.T
    weights = np.zeros_like(similarity)
    rows = np.arange(len(candidates))
    remaining = similarity.copy()
    np.fill_diagonal(remaining, -np.inf)
    # For few neighbours the largest, one after the other, is much faster than a partial sort.
    for _ in range(min(num_neighbors, len(candidates) - 1)):
        nearest = first_largest(remaining)
        weights[rows, nearest] = beta * similarity[rows, nearest]
        remaining[rows, nearest] = -np.inf
    np.fill_diagonal(weights, 1)
    return weights / weights.sum(axis=1, keepdims=True)
