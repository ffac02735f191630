"""Exact search by blocks: the K best of N inner products without a [Q, N] matrix.

A matrix product rounds one and the same pair of vectors differently according to where in the block
it stands, so images stored twice would come in an order of chance. Products are therefore trusted
only to a tolerance: what lies closer together is scored again in float64, one pair at a time, and
equal scores are ordered by row.
"""

from __future__ import annotations

import numpy as np

from delf_tf.retrieval.vectors.table import VectorTable

BLOCK_ROWS = 1 << 15
BLOCK_QUERIES = 256


def search_blocks(
    table: VectorTable, queries: np.ndarray, k: int, block_rows: int = BLOCK_ROWS
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the `k` largest inner products; ties go to the lower row.

    Memory besides the table: about BLOCK_QUERIES · block_rows scores and the result.

    Args:
      table: N vectors of width D, k at most N.
      queries: float32 [Q, D].
      k: results a query.
      block_rows: database vectors multiplied at a time; the result does not depend on it.

    Returns:
      rows int64 [Q, k] and scores float32 [Q, k], best first.
    """
    heads = [_Head(table, query, k) for query in queries]
    for first, block in table.blocks(block_rows):
        for start in range(0, len(queries), BLOCK_QUERIES):
            products = queries[start : start + BLOCK_QUERIES] @ block.T
            for head, scores in zip(heads[start:], products):
                head.merge(first, scores)
    for head in heads:
        head.sort()
    rows = np.array([head.rows for head in heads], np.int64).reshape(len(queries), k)
    scores = np.array([head.scores for head in heads], np.float32).reshape(len(queries), k)
    return rows, scores


def exact_scores(table: VectorTable, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Returns float32 [R], the inner products of `query` [D] with `rows` [R] of the table.

    A pair's score depends on the pair alone, not on what else is scored with it.
    """
    vectors = table.take(rows).astype(np.float64)
    return np.einsum("rd,d->r", vectors, query.astype(np.float64)).astype(np.float32)


class _Head:
    """The best `k` rows of one query so far."""

    def __init__(self, table: VectorTable, query: np.ndarray, k: int):
        self.rows = np.zeros(0, np.int64)
        self.scores = np.zeros(0, np.float32)
        self._table, self._query, self._k = table, query, k
        # Twice what rounding does to a float32 product of unit vectors, with room to spare.
        self._tolerance = np.float32(2e-7 * max(len(query), 16) ** 0.5)
        self._floor = np.float32(-np.inf)

    def merge(self, first: int, products: np.ndarray) -> None:
        """Takes in the products of a block of rows that begins at `first`."""
        found = np.flatnonzero(products >= self._floor)
        if len(found):
            self.rows = np.concatenate([self.rows, first + found])
            self.scores = np.concatenate([self.scores, products[found]])
            if len(self.rows) >= self._k:
                self._cut()

    def sort(self) -> None:
        """Puts the best first; whatever stands within the tolerance is scored exactly."""
        self._reorder()
        close = -np.diff(self.scores) <= self._tolerance
        near = np.append(close, False) | np.append(False, close)
        if len(self.rows) > 1 and near.any():
            self.scores[near] = self._exact(self.rows[near])
            self._reorder()

    def _cut(self) -> None:
        """Keeps `k`, exactly the right ones although the products are not exact."""
        kth = np.partition(self.scores, -self._k)[-self._k]
        sure = np.flatnonzero(self.scores > kth + self._tolerance)
        near = np.flatnonzero(np.abs(self.scores - kth) <= self._tolerance)
        if len(sure) + len(near) > self._k:
            exact = self._exact(self.rows[near])
            self.scores[near] = exact
            near = near[np.lexsort((self.rows[near], -exact))[: self._k - len(sure)]]
        kept = np.concatenate([sure, near])
        self.rows, self.scores = self.rows[kept], self.scores[kept]
        self._floor = self.scores.min() - self._tolerance

    def _exact(self, rows: np.ndarray) -> np.ndarray:
        return exact_scores(self._table, rows, self._query)

    def _reorder(self) -> None:
        order = np.lexsort((self.rows, -self.scores))
        self.rows, self.scores = self.rows[order], self.scores[order]
