"""A ranking's head in an order to which its pairs among themselves contribute.

An image that no detail joins to the query may share many with one that does. The head's pairwise
similarities are therefore turned into one order: by distances in an embedding of all of them, as
D. Aiger, B. Cao, K. Chen, A. Araujo propose (arXiv 2509.04351), or by its simple peers. A pair's
similarity is its fitted probability; those of the database's own pairs are made once.
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
from delf_tf.types import Ranking, Verification

NUM_NEIGHBORS = 50
NUM_ITERATIONS = 30
# Points nearer than this lie on each other; which way they part is not for rounding to say.
_COINCIDENT = 1e-6


def rerank(
    ranking: Ranking,
    query_features: second_stage.FeatureReader,
    database_features: second_stage.FeatureReader,
    *,
    order: Callable[[np.ndarray], np.ndarray],
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
        rows, chances = _chances(ranking, query, head, probability)
        similarity = np.eye(len(rows) + 1)
        similarity[0, 1:] = similarity[1:, 0] = chances
        among = pairs[rows][:, rows].toarray()
        np.fill_diagonal(among, 1)
        similarity[1:, 1:] = among
        places.append(np.flatnonzero(np.isin(ranking.indices[query], rows)))
        values.append(order(similarity))
    return second_stage.sort_heads(ranking, places, values), found


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
    heads = [_chances(own, query, head, probability) for query, head in enumerate(found)]
    sizes = [len(rows) for rows, _ in heads]
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    rows = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in heads)])
    values = np.concatenate([np.zeros(0), *(values for _, values in heads)])
    matrix = sparse.csr_matrix((values, rows, starts), shape=(len(heads), len(heads)))
    return matrix.maximum(matrix.T).tocsr()


def _chances(
    ranking: Ranking,
    query: int,
    head: Mapping[int, Verification],
    probability: PairProbability,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the head's rows int64 [C], in first-stage order, and float64 [C] in 0..1."""
    rows = np.fromiter(head, np.int64, len(head))
    score = dict(zip(ranking.indices[query].tolist(), ranking.scores[query].tolist()))
    logit = probability.logit(
        np.array([score[row] for row in head], np.float64),
        np.array([one.num_inliers for one in head.values()], np.int64),
        np.array([len(one.matches) for one in head.values()], np.int64),
    )
    return rows, 1 / (1 + np.exp(-logit))


def by_embedding(similarity: np.ndarray, num_iterations: int = NUM_ITERATIONS) -> np.ndarray:
    """Returns how near the head lies to the query in an embedding of 1 - similarity.

    The embedding has as many dimensions as it needs, so that strangers who are equally far from
    each other can be; it begins where classical scaling puts the images.

    Args:
      similarity: float64 [C + 1, C + 1], symmetric, in 0..1, the query first.
      num_iterations: see `minimize_stress`.

    Returns:
      float64 [C], minus the squared distance to the query.
    """
    dissimilarity = 1 - similarity
    points = minimize_stress(dissimilarity, classical_scaling(dissimilarity), num_iterations)
    # Squared, as a root would turn an error of 1e-16 into one of 1e-8.
    return -((points[1:] - points[0]) ** 2).sum(axis=1)


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


def by_diffusion(similarity: np.ndarray, alpha: float = 0.8) -> np.ndarray:
    """Returns what reaches the head from the query over the graph of its pairs.

    (I - alpha A) f = e with A = D^-1/2 S D^-1/2: D. Zhou et al., "Ranking on data manifolds", NIPS
    2003; for images, A. Iscen et al., CVPR 2017.

    Args:
      similarity: see `by_embedding`.
      alpha: share that is passed on, 0 to 1.

    Returns:
      float64 [C].
    """
    links = similarity - np.diag(np.diagonal(similarity))
    roots = np.sqrt(np.maximum(links.sum(axis=1), 1e-12))
    start = np.zeros(len(links))
    start[0] = 1
    return np.linalg.solve(np.eye(len(links)) - alpha * links / np.outer(roots, roots), start)[1:]


def by_expansion(similarity: np.ndarray, num_neighbors: int = 3, alpha: float = 1.0) -> np.ndarray:
    """Returns the mean similarity of the head to the query and to what is most similar to it.

    Args:
      similarity: see `by_embedding`.
      num_neighbors: images that ask with the query, each with weight similarity^alpha.
      alpha: how strongly more similar ones weigh more.

    Returns:
      float64 [C].
    """
    asking = np.append(0, 1 + descending(similarity[0, 1:])[:num_neighbors])
    return similarity[0, asking] ** alpha @ similarity[asking, 1:]


# rerank.method -> the order that it sorts by: a function of similarities.
ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "embedding": by_embedding,
    "diffusion": by_diffusion,
    "expansion": by_expansion,
}
