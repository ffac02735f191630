"""Nearest cells by tiles against all distances in float64."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.retrieval import cell_kernels
from delf_tf.retrieval.local_quantizer import LocalQuantizer


@pytest.mark.parametrize(("num", "num_cells", "dim"), [(8, 1, 3), (4, 64, 40), (12, 200, 17)])
@pytest.mark.parametrize("kept", [1, 7, 64])
def test_nearest_cells_are_those_of_all_distances(num, num_cells, dim, kept):
    random = np.random.default_rng(0)
    rows = random.standard_normal((num, dim)).astype(np.float32)
    centroids = random.standard_normal((num_cells, dim)).astype(np.float32)
    kept = min(kept, num_cells)
    cells, gaps = np.empty((num, kept), np.int64), np.empty((num, kept), np.float32)
    cell_kernels.nearest_cells(rows, *cell_kernels.tiled(centroids), cells, gaps)
    distances = ((rows[:, None].astype(np.float64) - centroids) ** 2).sum(axis=2)
    expected = np.argsort(distances, axis=1)[:, :kept]
    np.testing.assert_array_equal(cells, expected)
    squares = (rows.astype(np.float64) ** 2).sum(axis=1, keepdims=True)
    found = np.take_along_axis(distances, expected, axis=1) - squares
    np.testing.assert_allclose(gaps, found, rtol=1e-4, atol=1e-4)


def test_equally_near_cells_come_by_number():
    centroids = np.tile(np.eye(2, dtype=np.float32), (50, 1))
    cells, gaps = np.empty((4, 5), np.int64), np.empty((4, 5), np.float32)
    rows = np.tile(np.array([[1, 0]], np.float32), (4, 1))
    cell_kernels.nearest_cells(rows, *cell_kernels.tiled(centroids), cells, gaps)
    np.testing.assert_array_equal(cells, [[0, 2, 4, 6, 8]] * 4)


def test_tiles_hold_doubled_centroids_and_norms():
    centroids = np.arange(130, dtype=np.float32).reshape(65, 2)
    tiles, norms = cell_kernels.tiled(centroids)
    assert tiles.shape == (2, 2, 64)
    np.testing.assert_array_equal(tiles[1, :, 0], 2 * centroids[64])
    assert norms[0, 3] == 6**2 + 7**2
    assert np.isinf(norms[1, 1:]).all()


@pytest.mark.parametrize("num", [0, 1, 5, 9])
def test_cells_of_any_number_of_rows_and_however_many(num):
    random = np.random.default_rng(1)
    centroids = random.standard_normal((80, 4)).astype(np.float32)
    codebooks = np.zeros((2, 2, 2), np.float32)
    quantizer = LocalQuantizer(np.eye(4, dtype=np.float32), centroids, codebooks)
    rows = random.standard_normal((num, 4)).astype(np.float32)
    expected = ((rows[:, None] - centroids) ** 2).sum(axis=2).argsort(axis=1)
    # By tiles and, above 64, by comparing with all.
    for kept in (1, 64, 65, 80, 100):
        np.testing.assert_array_equal(quantizer.cells(rows, kept), expected[:, :kept])
