"""Tuples to train on, a query, a matching image and its hardest negatives, chosen anew each epoch.

Radenović et al.: Fine-tuning CNN Image Retrieval with No Human Annotation (TPAMI 2018, arXiv
1711.02512), section 4. Plain NumPy: the caller decides how images are described.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging

from delf_tf.checks import as_array, require
from delf_tf.datasets.sfm120k import SfmSplit

BLOCK_QUERIES = 256
BLOCK_ROWS = 1 << 15
# How far a descriptor's length may lie from 1: bfloat16 rounds to 3 digits.
_MAX_LENGTH_ERROR = 0.01
_PAIRS, _POOL = range(2)


@dataclasses.dataclass(frozen=True, eq=False)
class Tuples:
    """An epoch's tuples, as rows of the split's `image_ids`.

    Attributes:
      query_rows: int64 [T].
      positive_rows: int64 [T], of the query's cluster.
      negative_rows: int64 [T, K], hardest first, of K other clusters.
      mean_negative_distance: Euclidean, between the descriptors of queries and their negatives; it
        falls while they are found harder, and NaN stands for no negatives.
    """

    query_rows: np.ndarray
    positive_rows: np.ndarray
    negative_rows: np.ndarray
    mean_negative_distance: float

    def __len__(self) -> int:
        return len(self.query_rows)

    @property
    def rows(self) -> np.ndarray:
        """int64 [T, 2 + K]: query, positive, negatives."""
        columns = (self.query_rows[:, None], self.positive_rows[:, None], self.negative_rows)
        return np.concatenate(columns, axis=1)


class TupleMiner:
    """Draws pairs and a pool from a split, and finds each query's hardest negatives in the pool.

    An epoch's draw depends on the seed and the epoch alone, its negatives on the descriptors too.

    Attributes:
      split: the images.
      num_queries: T, tuples an epoch.
      pool_size: images that negatives are looked for in.
      num_negatives: K, of each tuple.
    """

    def __init__(
        self,
        split: SfmSplit,
        *,
        num_queries: int = 2000,
        pool_size: int = 20000,
        num_negatives: int = 5,
        seed: int = 0,
    ):
        """Prepares the draws; the defaults are those of the paper's release and of Super-features.

        Args:
          split: from sfm120k.read_database.
          num_queries: pairs drawn each epoch, all of them where there are fewer.
          pool_size: images drawn each epoch, likewise.
          num_negatives: at least 0.
          seed: of the draws, in 0..2³² - 1.

        Raises:
          InputError: numbers out of range, no pair, a pair of two clusters or of one image.
        """
        self.split, self._seed = split, seed
        for name, value, least in (
            ("num_queries", num_queries, 1),
            ("pool_size", pool_size, 1),
            ("num_negatives", num_negatives, 0),
        ):
            require(value >= least, f"{name} must be at least {least}.", **{name: value})
        require(0 <= seed < 1 << 32, "seed must lie in 0..2**32 - 1.", seed=seed)
        _require_pairs(split)
        self.num_queries = min(num_queries, len(split.query_rows))
        self.pool_size = min(pool_size, len(split.image_ids))
        self.num_negatives = num_negatives

    def pair_rows(self, epoch: int) -> np.ndarray:
        """Returns int64 [T, 2]: the queries and positives of an epoch, in random order."""
        chosen = self._draw(epoch, _PAIRS, len(self.split.query_rows), self.num_queries)
        return np.stack([self.split.query_rows[chosen], self.split.positive_rows[chosen]], axis=1)

    def pool_rows(self, epoch: int) -> np.ndarray:
        """Returns int64 [pool_size], ascending: the images that an epoch's negatives are among."""
        return np.sort(self._draw(epoch, _POOL, len(self.split.image_ids), self.pool_size))

    def mine(
        self,
        epoch: int,
        describe: Callable[[list[Any]], np.ndarray],
        images: Sequence[Any] | None = None,
    ) -> Tuples:
        """Chooses an epoch's tuples.

        Args:
          epoch: from 0.
          describe: called once, with the images to describe (pool and queries, each once); returns
            float [M, D], L2-normalised, in their order.
          images: what `describe` is given of each image of the split, in the order of `image_ids`;
            None for the ids.

        Raises:
          InputError: descriptors of another number, not finite or not normalised, or fewer than
            `num_negatives` other clusters in the pool.
        """
        images = self.split.image_ids if images is None else images
        require(
            len(images) == len(self.split.image_ids),
            "images must be one for each of the split's ids.",
            num_images=len(images),
            num_ids=len(self.split.image_ids),
        )
        pairs, pool = self.pair_rows(epoch), self.pool_rows(epoch)
        described = np.union1d(pairs[:, 0], pool)
        vectors = as_array("descriptors", describe([images[r] for r in described]), ("N", "D"))
        require(
            len(vectors) == len(described),
            "describe must return one descriptor an image.",
            descriptors=vectors,
            num_images=len(described),
        )
        clusters = self.split.clusters
        found, distances = hardest_negatives(
            vectors[np.searchsorted(described, pairs[:, 0])],
            clusters[pairs[:, 0]],
            vectors[np.searchsorted(described, pool)],
            clusters[pool],
            self.num_negatives,
        )
        mean = float(distances.mean()) if distances.size else float("nan")
        logging.info(
            "Epoch %d: %d tuples from a pool of %d images, mean distance of negatives %.4f.",
            epoch,
            len(pairs),
            len(pool),
            mean,
        )
        return Tuples(pairs[:, 0], pairs[:, 1], pool[found], mean)

    def _draw(self, epoch: int, purpose: int, count: int, num: int) -> np.ndarray:
        require(0 <= epoch < 1 << 32, "epoch must lie in 0..2**32 - 1.", epoch=epoch)
        return np.random.RandomState([self._seed, epoch, purpose]).permutation(count)[:num]


def hardest_negatives(
    queries: np.ndarray,
    query_clusters: np.ndarray,
    pool: np.ndarray,
    pool_clusters: np.ndarray,
    num_negatives: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds for each query the nearest images of other clusters, at most one of a cluster.

    Products in float32, at most BLOCK_QUERIES · BLOCK_ROWS at a time, choose candidates; their
    distances in float64 decide, and of equals the lower row is taken. The result therefore does not
    depend on the size of blocks, and images stored twice come in the same order everywhere.

    Args:
      queries: float [Q, D], L2-normalised.
      query_clusters: integer [Q]; images of a query's own cluster are none of its negatives.
      pool: float [N, D], likewise.
      pool_clusters: integer [N].
      num_negatives: K, at least 0.

    Returns:
      Rows of the pool int64 [Q, K], nearest first, and Euclidean distances float64 [Q, K].

    Raises:
      InputError: other shapes, not finite, not normalised, or some query with fewer than K other
        clusters in the pool.
    """
    queries, pool = as_array("queries", queries, ("Q", "D")), as_array("pool", pool, ("N", "D"))
    query_clusters = as_array("query_clusters", query_clusters, (len(queries),), np.int64)
    pool_clusters = as_array("pool_clusters", pool_clusters, (len(pool),), np.int64)
    require(num_negatives >= 0, "num_negatives must be >= 0.", num_negatives=num_negatives)
    rows = np.zeros((len(queries), num_negatives), np.int64)
    distances = np.zeros((len(queries), num_negatives))
    if not rows.size:
        return rows, distances
    _require_comparable(queries, pool)
    _require_clusters(query_clusters, pool_clusters, num_negatives)
    searched = _Pool(pool, pool_clusters)
    for start in range(0, len(queries), BLOCK_QUERIES):
        part = slice(start, start + BLOCK_QUERIES)
        candidates = searched.candidates(queries[part], query_clusters[part], num_negatives)
        for at, mine in enumerate(candidates, start):
            rows[at], distances[at] = searched.nearest(queries[at], mine, num_negatives)
    return rows, distances


class _Pool:
    """The images that negatives are looked for in, cluster by cluster."""

    def __init__(self, vectors: np.ndarray, clusters: np.ndarray):
        self._vectors, self._clusters = vectors, clusters
        # With each cluster in one piece, its best image in a block is a maximum over a slice.
        self._order = np.argsort(clusters, kind="stable")
        # Twice the bound of a sum's rounding, D · eps for vectors of length 1, and some more for
        # the few other operations.
        self._tolerance = np.float32(2 * (vectors.shape[1] + 16) * np.finfo(np.float32).eps)

    def candidates(
        self, queries: np.ndarray, query_clusters: np.ndarray, num: int
    ) -> list[np.ndarray]:
        """Returns for each query rows that its `num` negatives are among for certain."""
        found: list[list[np.ndarray]] = [[] for _ in queries]
        for first in range(0, len(self._order), BLOCK_ROWS):
            block = self._order[first : first + BLOCK_ROWS]
            vectors, clusters = self._vectors[block], self._clusters[block]
            starts = np.flatnonzero(np.append(True, clusters[1:] != clusters[:-1]))
            sizes = np.diff(np.append(starts, len(block)))
            # |q - n|² = |q|² + |n|² - 2 q·n: the greater the product less |n|²/2, the nearer.
            scores = queries @ vectors.T - 0.5 * np.square(vectors).sum(axis=1)
            scores[query_clusters[:, None] == clusters] = -np.inf
            best = np.maximum.reduceat(scores, starts, axis=1)
            kth = -min(num, len(starts))
            floor = np.partition(best, kth, axis=1)[:, kth]
            for mine, row, of_cluster, least in zip(found, scores, best, floor):
                # Of each of the best clusters, what may be its nearest image.
                floors = np.maximum(np.repeat(of_cluster, sizes), least) - self._tolerance
                mine.append(block[(row >= floors) & (row > -np.inf)])
        return [np.concatenate(mine) for mine in found]

    def nearest(
        self, query: np.ndarray, candidates: np.ndarray, num: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest `num` candidates of different clusters, and their distances."""
        difference = self._vectors[candidates].astype(np.float64) - query.astype(np.float64)
        squared = np.square(difference).sum(axis=1)
        nearest_first = np.lexsort((candidates, squared))
        _, firsts = np.unique(self._clusters[candidates[nearest_first]], return_index=True)
        chosen = nearest_first[np.sort(firsts)[:num]]
        return candidates[chosen], np.sqrt(squared[chosen])


def _require_pairs(split: SfmSplit) -> None:
    queries, positives = split.query_rows, split.positive_rows
    require(len(queries) > 0, "The split must have pairs of images.", num_pairs=0)
    strange = (split.clusters[queries] != split.clusters[positives]) | (queries == positives)
    require(
        not strange.any(),
        "A query and its positive must be two images of one cluster.",
        num_others=int(strange.sum()),
        first=[split.image_ids[row] for row in queries[strange][:3]],
    )


def _require_comparable(queries: np.ndarray, pool: np.ndarray) -> None:
    require(
        queries.shape[1] == pool.shape[1],
        "Queries and pool must be described in the same width.",
        queries=queries,
        pool=pool,
    )
    for name, vectors in (("queries", queries), ("pool", pool)):
        squared = np.einsum("nd,nd->n", vectors, vectors)
        worst = float(np.abs(np.sqrt(squared) - 1).max(initial=0.0))
        require(
            worst <= _MAX_LENGTH_ERROR,
            f"Descriptors of {name} must be L2-normalised.",
            largest_deviation_of_length=worst,
        )


def _require_clusters(query_clusters: np.ndarray, pool_clusters: np.ndarray, num: int) -> None:
    clusters = np.unique(pool_clusters)
    others = len(clusters) - np.isin(query_clusters, clusters)
    require(
        bool((others >= num).all()),
        "The pool must hold at least num_negatives clusters besides each query's own.",
        hint="Enlarge pool_size or lower num_negatives.",
        num_negatives=num,
        num_clusters=len(clusters),
    )
