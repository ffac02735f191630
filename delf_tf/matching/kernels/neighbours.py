"""Nearest neighbours in both directions from one product that is never stored.

A product of augmented descriptors [q, -|q|²/2, 1] · [d, 1, -|d|²/2] is -|q - d|²/2, so that one
number is the score of both directions. Descriptors far from the origin are shifted towards it
first: distances stay, and the squares, whose difference loses digits, become small.
"""

from __future__ import annotations

import numpy as np

from delf_tf.matching.kernels.compilation import (
    entry,
    entry_sums,
    inlined,
    inner_sums,
    sources_digest,
)
from delf_tf.matching.kernels.tile import COLS, ROWS, score_tile

# Below every score of real descriptors; finite, as it meets zeros in products.
FLOOR = np.float32(-1e30)

# Panels that are gone through for all rows before the next ones: they should stay in the L2 cache.
_BLOCK_FLOATS = 160_000


@inlined
def _merge_lanes(best, second, where, row, row_best, row_second, row_where):
    for r in range(ROWS):
        for c in range(COLS):
            column = where[r, c] * COLS + c
            top, at = row_best[row + r], row_where[row + r]
            score = best[r, c]
            # Equal scores: the smallest index, whatever the blocking.
            if score > top or (score == top and column < at):
                row_second[row + r] = max(row_second[row + r], top, second[r, c])
                row_best[row + r] = score
                row_where[row + r] = column
            else:
                row_second[row + r] = max(row_second[row + r], score)


@inner_sums
def _distance(a, b):
    total = np.float32(0)
    for k in range(len(a)):
        difference = np.float32(a[k]) - np.float32(b[k])
        total += difference * difference
    return np.sqrt(total)


def _build(digest):
    def offset_of(descriptors):
        """Returns a point near the mean, to be subtracted, float32 [D].

        It lies on a grid of powers of two about as wide as the descriptors' spread, which leaves
        centred data where they are, and whole numbers exact.
        """
        _ = digest
        num, dim = descriptors.shape
        offset = np.zeros(dim, np.float32)
        if num == 0 or dim == 0:
            return offset
        sums, squares = np.zeros(dim), 0.0
        first = descriptors[0]
        for i in range(num):
            for k in range(dim):
                value = np.float64(descriptors[i, k]) - np.float64(first[k])
                sums[k] += value
                squares += value * value
        for k in range(dim):
            squares -= sums[k] * sums[k] / num
        spread = np.sqrt(max(squares, 0.0) / (num * dim))
        for k in range(dim):
            offset[k] = first[k]
            if spread > 0:
                grid = np.exp2(np.floor(np.log2(spread) + 0.5))
                offset[k] = np.floor((first[k] + sums[k] / num) / grid + 0.5) * grid
        return offset

    def pack_rows(descriptors, offset):
        """Returns float32 [N rounded up to ROWS, D + 2]."""
        _ = digest
        num, dim = descriptors.shape
        packed = np.zeros(((num + ROWS - 1) // ROWS * ROWS, dim + 2), np.float32)
        for i in range(num):
            norm = np.float32(0)
            for k in range(dim):
                value = np.float32(descriptors[i, k]) - offset[k]
                packed[i, k] = value
                norm += value * value
            packed[i, dim] = np.float32(-0.5) * norm
            packed[i, dim + 1] = 1
        for i in range(num, len(packed)):
            packed[i, dim] = FLOOR
            packed[i, dim + 1] = 1
        return packed

    def pack_panels(descriptors, offset):
        """Returns float32 [ceil(M / COLS), D + 2, COLS]."""
        _ = digest
        num, dim = descriptors.shape
        packed = np.zeros(((num + COLS - 1) // COLS, dim + 2, COLS), np.float32)
        for j in range(len(packed) * COLS):
            panel = packed[j // COLS]
            column = j % COLS
            panel[dim, column] = 1
            panel[dim + 1, column] = FLOOR
            if j < num:
                norm = np.float32(0)
                for k in range(dim):
                    value = np.float32(descriptors[j, k]) - offset[k]
                    panel[k, column] = value
                    norm += value * value
                panel[dim + 1, column] = np.float32(-0.5) * norm
        return packed

    def scan(rows, panels, with_second):
        """Returns best score, second score and index a row, and best score and row a column."""
        _ = digest
        num_rows, num_panels = len(rows), len(panels)
        row_best = np.full(num_rows, 2 * FLOOR, np.float32)
        row_second = np.full(num_rows, 2 * FLOOR, np.float32)
        row_where = np.zeros(num_rows, np.int32)
        col_best = np.full((num_panels, COLS), 2 * FLOOR, np.float32)
        col_where = np.zeros((num_panels, COLS), np.int32)
        best = np.empty((ROWS, COLS), np.float32)
        second = np.empty((ROWS, COLS), np.float32)
        where = np.empty((ROWS, COLS), np.int32)
        block = max(1, _BLOCK_FLOATS // (COLS * rows.shape[1]))
        for start in range(0, num_panels, block):
            stop = min(start + block, num_panels)
            for row in range(0, num_rows, ROWS):
                best[:] = 2 * FLOOR
                second[:] = 2 * FLOOR
                where[:] = 0
                if with_second:
                    for panel in range(start, stop):
                        by_row, by_col = (best, where, second), (col_best, col_where)
                        score_tile(rows, panels, (row, panel), by_row, by_col)
                else:
                    for panel in range(start, stop):
                        by_row, by_col = (best, where), (col_best, col_where)
                        score_tile(rows, panels, (row, panel), by_row, by_col)
                _merge_lanes(best, second, where, row, row_best, row_second, row_where)
        return row_best, row_second, row_where, col_best.ravel(), col_where.ravel()

    def select(query, database, nearest, second, back, max_distance, max_ratio):
        """Returns the matches [M, 2] that pass, and their distances [M].

        `back`, each database row's nearest query row, is empty where that is not to be checked.
        """
        _ = digest
        num = len(query)
        matches = np.empty((num, 2), np.int64)
        distances = np.empty(num, np.float32)
        kept = 0
        for i in range(num):
            j = nearest[i]
            if j >= len(database):  # Scores overflowed to below the padding's.
                continue
            if len(back) and back[j] != i:
                continue
            distance = _distance(query[i], database[j])
            if not distance < max_distance:
                continue
            # The score of the runner-up is -distance²/2; without one it is far below FLOOR.
            runner_up = np.sqrt(max(np.float32(0), np.float32(-2) * second[i]))
            if max_ratio < np.inf and not distance < max_ratio * runner_up:
                continue
            matches[kept, 0] = i
            matches[kept, 1] = j
            distances[kept] = distance
            kept += 1
        return matches[:kept].copy(), distances[:kept].copy()

    packing = (offset_of, pack_rows, pack_panels)
    return (*map(entry_sums, packing), entry(scan), entry(select))


offset_of, pack_rows, pack_panels, scan, select = _build(sources_digest())
