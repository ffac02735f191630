"""A ranking's head in an order to which its pairs among themselves contribute.

An image that no detail joins to the query may share many with one that does. The head's pairwise
similarities are therefore turned into one order: by distances in an embedding of all of them, as
D. Aiger, B. Cao, K. Chen, A. Araujo propose (arXiv 2509.04351), or by its simple peers. A pair's
similarity is its fitted probability; those of the database's own pairs are made once.

The order adds what all pairs tell to what the query's own pairs do: alone it would move images that
little joins to anything by what they happen to share. How much of it was chosen on warped training
pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import sparse

from delf_tf.checks import require
from delf_tf.retrieval.ordering import descending
from delf_tf.retrieval.second_stage import rerank as second_stage
from delf_tf.retrieval.second_stage.pair_probability import PairProbability
from delf_tf.retrieval.second_stage.scores import sort_heads
from delf_tf.types import Ranking, Verification

NUM_NEIGHBORS = 50
NUM_ITERATIONS = 30
# Of the squared distance, and of the logarithm of what diffuses, beside the logit of a pair.
EMBEDDING_WEIGHT = 10.0
DIFFUSION_WEIGHT = 1.0
# Points nearer than this lie on each other; which way they part is not for rounding to say.
_COINCIDENT = 1e-6
# Less than this reaches an image by rounding as well.
_LEAST_FLOW = 1e-5

# Similarities float64 [C + 1, C + 1] of the query, which comes first, and its head, symmetric, in
# 0..1; and the logits float64 [C] of the query's own; to values [C] to sort by, largest first.
Order = Callable[[np.ndarray, np.ndarray], np.ndarray]


def rerank(
    ranking: Ranking,
    query_features: second_stage.FeatureReader,
    database_features: second_stage.FeatureReader,
    *,
    order: Order,
    database_pairs: Callable[[], sparse.csr_matrix],
    probability: PairProbability,
    **kwargs: Any,
) -> tuple[Ranking, second_stage.Verifications]:
    """Verifies the head of every row and sorts it by all of its pairs.

    Args:
      ranking: the first stage's result.
      query_features: see `second_stage.rerank`.
      database_features: likewise.
      order: a row of ORDERS.
      database_pairs: gives [N, N], what `verify_database` made of the ranking's database.
      probability: of a pair.
      **kwargs: of `second_stage.rerank`.

    Returns:
      As `second_stage.rerank`.

    Raises:
      InputError: as `second_stage.rerank`, or pairs of another database.
    """
    _, found = second_stage.rerank(
        ranking, query_features, database_features, probability=probability, **kwargs
    )
    pairs, num_images = database_pairs(), len(ranking.database_ids)
    require(
        pairs.shape == (num_images, num_images),
        "The database's pairs must be of the ranking's database.",
        hint="Make them again.",
        num_images=num_images,
        num_paired=pairs.shape[0],
    )
    places, values = [], []
    for query, head in enumerate(found):
        rows, logit = _logits(ranking, query, head, probability)
        similarity = np.eye(len(rows) + 1)
        similarity[0, 1:] = similarity[1:, 0] = _chance(logit)
        among = pairs[rows][:, rows].toarray()
        np.fill_diagonal(among, 1)
        similarity[1:, 1:] = among
        places.append(np.flatnonzero(np.isin(ranking.indices[query], rows)))
        values.append(order(similarity, logit))
    return sort_heads(ranking, places, values), found


def verify_database(
    own: Ranking,
    features: second_stage.FeatureReader,
    *,
    probability: PairProbability,
    num_neighbors: int = NUM_NEIGHBORS,
    **kwargs: Any,
) -> sparse.csr_matrix:
    """Verifies every image of a database against those that are nearest to it.

    Args:
      own: the database searched by all of its images, each left out of its own results.
      features: gives an image's local features by its id.
      probability: of a pair.
      num_neighbors: images that each is verified against.
      **kwargs: of `second_stage.rerank`; its `verifications_dir` keeps the pairs.

    Returns:
      float64 [N, N], symmetric: each pair's probability; 0 where neither is a neighbour of the
      other.

    Raises:
      InputError: queries that are not the database's images in order.
    """
    require(
        own.query_ids == own.database_ids,
        "A database must be searched by all of its own images, in order.",
        num_queries=len(own.query_ids),
        num_images=len(own.database_ids),
    )
    _, found = second_stage.rerank(own, features, features, num_candidates=num_neighbors, **kwargs)
    heads = [_logits(own, query, head, probability) for query, head in enumerate(found)]
    sizes = [len(rows) for rows, _ in heads]
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    rows = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in heads)])
    values = _chance(np.concatenate([np.zeros(0), *(logit for _, logit in heads)]))
    matrix = sparse.csr_matrix((values, rows, starts), shape=(len(heads), len(heads)))
    return matrix.maximum(matrix.T).tocsr()


def _logits(
    ranking: Ranking,
    query: int,
    head: Mapping[int, Verification],
    probability: PairProbability,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the head's rows int64 [C], in first-stage order, and their logits float64 [C]."""
    rows = np.fromiter(head, np.int64, len(head))
    score = dict(zip(ranking.indices[query].tolist(), ranking.scores[query].tolist()))
    logit = probability.logit(
        np.array([score[row] for row in head], np.float64),
        np.array([one.num_inliers for one in head.values()], np.int64),
        np.array([len(one.matches) for one in head.values()], np.int64),
    )
    return rows, logit


def _chance(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def by_embedding(similarity: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """Sorts by logit - EMBEDDING_WEIGHT d^2, d the distance to the query in an embedding.

    Distances of 1 - similarity are wanted. The embedding has as many dimensions as it needs, so
    that strangers who are equally far from each other can be; it begins where classical scaling
    puts the images. See Order.
    """
    dissimilarity = 1 - similarity
    points = minimize_stress(dissimilarity, classical_scaling(dissimilarity), NUM_ITERATIONS)
    # Squared, as a root would turn an error of 1e-16 into one of 1e-8.
    return logit - EMBEDDING_WEIGHT * ((points[1:] - points[0]) ** 2).sum(axis=1)


def classical_scaling(dissimilarity: np.ndarray) -> np.ndarray:
    """Returns points float64 [n, n] whose distances are near float64 [n, n]: Torgerson, 1952."""
    squares = dissimilarity**2
    means = squares.mean(axis=0)
    inner = (means + means[:, None] - squares - means.mean()) / 2
    values, vectors = np.linalg.eigh(inner)
    return vectors * np.sqrt(np.maximum(values, 0))


def minimize_stress(
    dissimilarity: np.ndarray, points: np.ndarray, num_iterations: int
) -> np.ndarray:
    """Moves points until their distances are nearer to what they should be.

    SMACOF: J. de Leeuw, "Applications of convex analysis to multidimensional scaling", 1977. Each
    step, a Guttman transform, makes the sum of the distances' squared errors smaller.

    Args:
      dissimilarity: float64 [n, n], symmetric, 0 on its diagonal.
      points: float64 [n, d].
      num_iterations: steps.
    """
    for _ in range(num_iterations):
        inner = points @ points.T
        norms = np.diagonal(inner)
        distances = np.sqrt(np.maximum(norms + norms[:, None] - 2 * inner, 0))
        apart = distances > _COINCIDENT
        ratios = np.divide(dissimilarity, distances, where=apart, out=np.zeros_like(distances))
        points = (ratios.sum(axis=1)[:, None] * points - ratios @ points) / len(points)
    return points


def by_diffusion(similarity: np.ndarray, logit: np.ndarray, alpha: float = 0.8) -> np.ndarray:
    """Sorts by logit + DIFFUSION_WEIGHT ln f, f what reaches an image from the query over pairs.

    (I - alpha A) f = e with A = D^-1/2 S D^-1/2: D. Zhou et al., "Ranking on data manifolds", NIPS
    2003; for images, A. Iscen et al., CVPR 2017.

    Args:
      similarity: see Order.
      logit: likewise.
      alpha: share that is passed on, 0 to 1.
    """
    links = similarity - np.diag(np.diagonal(similarity))
    roots = np.sqrt(np.maximum(links.sum(axis=1), 1e-12))
    start = np.zeros(len(links))
    start[0] = 1
    flow = np.linalg.solve(np.eye(len(links)) - alpha * links / np.outer(roots, roots), start)
    return logit + DIFFUSION_WEIGHT * np.log(np.maximum(flow[1:], _LEAST_FLOW))


def by_expansion(
    similarity: np.ndarray, logit: np.ndarray, num_neighbors: int = 3, alpha: float = 1.0
) -> np.ndarray:
    """Sorts by the mean similarity to the query and to what is most similar to it.

    Args:
      similarity: see Order.
      logit: likewise.
      num_neighbors: images that ask with the query, each with weight similarity^alpha.
      alpha: how strongly more similar ones weigh more.
    """
    asking = np.append(0, 1 + descending(logit)[:num_neighbors])
    return similarity[0, asking] ** alpha @ similarity[asking, 1:]


# rerank.method -> the order that it sorts by.
ORDERS: dict[str, Order] = {
    "embedding": by_embedding,
    "diffusion": by_diffusion,
    "expansion": by_expansion,
}
