"""Nearest cells of local features, exactly: products of 4 features with 64 cells in registers."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from delf_tf.retrieval.words.loops import entry

# Features and cells of a tile: sixteen registers of sums on AVX-512.
ROWS, CELLS = 4, 64
_FLOAT, _INDEX, _WORD = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS = ir.VectorType(_FLOAT, CELLS)


def _emit_products(context: Any, builder: Any, signature: Any, arguments: Any) -> ir.Value:
    rows, tiles, products = (
        context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 2, 4)
    )
    width = cgutils.unpack_tuple(builder, rows.shape)[1]
    first = builder.mul(arguments[1], width)
    tile = builder.mul(arguments[3], width)
    zero = ir.Constant(_INDEX, 0)
    everywhere = ir.Constant(ir.VectorType(_INDEX, CELLS), [0] * CELLS)
    sums = [
        cgutils.alloca_once_value(builder, ir.Constant(_FLOATS, [0.0] * CELLS)) for _ in range(ROWS)
    ]
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    fused = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{CELLS}f32")

    def place(array: Any, at: ir.Value) -> ir.Value:
        start = builder.gep(array.data, [builder.mul(at, ir.Constant(_WORD, CELLS))])
        return builder.bitcast(start, ir.PointerType(_FLOATS))

    with cgutils.for_range(builder, width, intp=_WORD) as loop:
        cells = builder.load(place(tiles, builder.add(tile, loop.index)), align=4)
        for row, total in enumerate(sums):
            at = builder.add(first, builder.mul(ir.Constant(_WORD, row), width))
            value = builder.load(builder.gep(rows.data, [builder.add(at, loop.index)]))
            value = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, zero)
            value = builder.shuffle_vector(value, value, everywhere)
            builder.store(builder.call(fused, [cells, value, builder.load(total)]), total)
    for row, total in enumerate(sums):
        target = place(products, ir.Constant(_WORD, row))
        builder.store(builder.load(total), target, align=4)
    return context.get_dummy_value()


def _type_products(
    _context: Any, rows: Any, _row: Any, tiles: Any, _tile: Any, products: Any
) -> Any:
    return types.void(rows, types.int64, tiles, types.int64, products), _emit_products


# _products(rows [N, D], row, tiles [T, D, 64], tile, products [4, 64]): the inner products of four
# rows from `row` on with the vectors of a tile, all float32.
_products: Any = intrinsic(_type_products)


def tiled(centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lays out centroids for `nearest_cells`.

    Args:
      centroids: float32 [C, D].

    Returns:
      float32 [T, D, 64], the centroids doubled, and float32 [T, 64], their squared norms, infinite
      where there is no centroid.
    """
    num, dim = centroids.shape
    num_tiles = -(-num // CELLS)
    padded = np.zeros((num_tiles * CELLS, dim), np.float32)
    padded[:num] = 2 * centroids
    norms = np.full(num_tiles * CELLS, np.inf, np.float32)
    norms[:num] = (centroids**2).sum(axis=1)
    tiles = padded.reshape(num_tiles, CELLS, dim).transpose(0, 2, 1)
    return np.ascontiguousarray(tiles), norms.reshape(num_tiles, CELLS)


@entry
def nearest_cells(
    rows: np.ndarray, tiles: np.ndarray, norms: np.ndarray, cells: np.ndarray, gaps: np.ndarray
) -> None:
    """Finds the nearest cells of each row, nearest first, equally near ones by number.

    Args:
      rows: float32 [N, D], N a multiple of `ROWS`.
      tiles: of `tiled`.
      norms: of `tiled`.
      cells: int64 [N, K], filled; K at most the number of cells, and small.
      gaps: float32 [N, K], filled with the squared distances less the row's squared norm.
    """
    products = np.empty((ROWS, CELLS), np.float32)
    last = cells.shape[1] - 1
    cells[:] = 0
    gaps[:] = np.inf
    for tile in range(len(tiles)):
        for start in range(0, len(rows), ROWS):
            _products(rows, start, tiles, tile, products)
            for row in range(ROWS):
                near, found = gaps[start + row], cells[start + row]
                num_nearer = 0
                # Without branches, as few tiles have a cell that is near enough.
                for cell in range(CELLS):
                    gap = norms[tile, cell] - products[row, cell]
                    products[row, cell] = gap
                    num_nearer += gap < near[last]
                if num_nearer == 0:
                    continue
                for cell in range(CELLS):
                    gap, at = products[row, cell], last
                    if gap < near[last]:
                        while at > 0 and near[at - 1] > gap:
                            near[at], found[at] = near[at - 1], found[at - 1]
                            at -= 1
                        near[at], found[at] = gap, tile * CELLS + cell
