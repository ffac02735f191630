"""The SIMD comparison of 64 codes against sums of table entries, one at a time."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from delf_tf.retrieval.block_scan import lowest_bit, prefetch, scan


@numba.njit
def _scan(blocks, block, tables, has_planes, limit):
    return scan(blocks, block, tables, has_planes, np.uint8(limit))


@numba.njit
def _lowest_bit(word):
    return lowest_bit(word)


@numba.njit
def _prefetch(rows, row):
    prefetch(rows, row)
    return rows[row, 0]


def _sums(block, tables, has_planes):
    num_pairs = len(tables) // 2
    sums = np.zeros(64, int)
    for part, table in enumerate(tables):
        pair = block[64 * (part // 2) : 64 * (part // 2 + 1)]
        code = (pair >> 4 if part % 2 else pair & 15).astype(int)
        if has_planes:
            word = block[64 * num_pairs + 8 * part : 64 * num_pairs + 8 * part + 8]
            code += 16 * np.unpackbits(word, bitorder="little")
        sums += table[code]
    return sums


@pytest.mark.parametrize("num_pairs", [1, 2, 5])
@pytest.mark.parametrize("has_planes", [False, True])
def test_scan_is_the_sum_of_the_tables(num_pairs, has_planes):
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (3, num_pairs * (80 if has_planes else 64))).astype(np.uint8)
    tables = random.integers(0, 200 // num_pairs, (2 * num_pairs, 32)).astype(np.uint8)
    for number, block in enumerate(blocks):
        sums = _sums(block, tables, has_planes)
        for limit in (0, *np.sort(sums)[[0, 9, 30]].clip(0, 255).tolist(), 254, 255):
            mask = int(_scan(blocks, number, tables, has_planes, limit))
            expected = np.minimum(sums, 255) <= limit
            np.testing.assert_array_equal([mask >> lane & 1 for lane in range(64)], expected)


def test_sums_above_a_byte_stay_above_all_limits_but_the_last():
    tables = np.full((2, 32), 200, np.uint8)
    blocks = np.zeros((1, 64), np.uint8)
    assert _scan(blocks, 0, tables, False, 254) == 0
    assert int(_scan(blocks, 0, tables, False, 255)) == (1 << 64) - 1


def test_lowest_bit():
    for word in (1, 6, 1 << 63, 0b1011000, (1 << 64) - 1):
        assert _lowest_bit(np.uint64(word)) == (word & -word).bit_length() - 1
    assert _lowest_bit(np.uint64(0)) == 64


@pytest.mark.parametrize("shape", [(1, 1), (3, 400), (2, 64)])
def test_prefetch_changes_nothing(shape):
    rows = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for row in range(len(rows)):
        assert _prefetch(rows, row) == rows[row, 0] == row * shape[1]
