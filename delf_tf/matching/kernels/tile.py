"""A register-blocked product of two small matrices, written as LLVM vectors.

LLVM does not keep a block of sums in registers when it vectorises nested loops, which costs half of
the speed. The instruction sequence is therefore spelled out: ROWS x COLS sums are held in vector
registers while one loop runs over the descriptor's components. The IR is generic; LLVM lowers it to
whatever vector unit there is.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic


def _shape() -> tuple[int, int, int]:
    """Returns (lanes of a vector, rows, vectors in a row) that fit this machine's registers."""
    try:
        features = llvmlite.binding.get_host_cpu_features()
    except RuntimeError:  # LLVM cannot tell on some platforms.
        features = {}
    if features.get("avx512f"):
        return 16, 8, 2
    if features.get("avx2"):
        return 8, 4, 2
    return 4, 4, 2


LANES, ROWS, _VECTORS = _shape()
COLS = LANES * _VECTORS


@intrinsic
def tile_product(
    typingctx: Any, rows: Any, first_row: Any, panels: Any, panel: Any, out: Any
) -> Any:
    """out[r, c] = sum over k of rows[first_row + r, k] * panels[panel, k, c].

    Args:
      typingctx: Numba's.
      rows: float32 [N, K], C-contiguous; first_row + ROWS <= N.
      first_row: the first row of the tile.
      panels: float32 [P, K, COLS], C-contiguous.
      panel: which panel.
      out: float32 [ROWS, COLS], C-contiguous, overwritten.
    """
    signature = types.void(rows, types.intp, panels, types.intp, out)
    return signature, _emit


def _emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
    rows, panels, out = (
        context.make_array(signature.args[n])(context, builder, args[n]) for n in (0, 2, 4)
    )
    index = args[1].type

    def number(value: int) -> ir.Constant:
        return ir.Constant(index, value)

    vector = ir.VectorType(ir.FloatType(), LANES)
    depth = cgutils.unpack_tuple(builder, rows.shape)[1]
    row_data = builder.gep(rows.data, [builder.mul(args[1], depth)])
    row_starts = [builder.gep(row_data, [builder.mul(number(r), depth)]) for r in range(ROWS)]
    panel_start = builder.gep(panels.data, [builder.mul(args[3], builder.mul(depth, number(COLS)))])

    before = builder.block
    loop = builder.append_basic_block("tile.loop")
    done = builder.append_basic_block("tile.done")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(index)
    k.add_incoming(number(0), before)
    cells = [(r, v) for r in range(ROWS) for v in range(_VECTORS)]
    sums = {cell: builder.phi(vector) for cell in cells}
    for phi in sums.values():
        phi.add_incoming(ir.Constant(vector, [0.0] * LANES), before)
    column = builder.gep(panel_start, [builder.mul(k, number(COLS))])
    columns = [_load(builder, column, number(v * LANES), vector) for v in range(_VECTORS)]
    totals = {}
    for r in range(ROWS):
        factor = _broadcast(builder, builder.load(builder.gep(row_starts[r], [k])), vector)
        for v in range(_VECTORS):
            product = builder.fmul(factor, columns[v], flags=["contract"])
            totals[r, v] = builder.fadd(product, sums[r, v], flags=["contract"])
    following = builder.add(k, number(1))
    k.add_incoming(following, loop)
    for cell in cells:
        sums[cell].add_incoming(totals[cell], loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
    builder.position_at_end(done)
    for r, v in cells:
        place = builder.gep(out.data, [number(r * COLS + v * LANES)])
        builder.store(totals[r, v], builder.bitcast(place, vector.as_pointer())).align = 4
    return context.get_dummy_value()


def _load(
    builder: ir.IRBuilder, start: ir.Value, offset: ir.Constant, vector: ir.VectorType
) -> ir.Value:
    loaded = builder.load(builder.bitcast(builder.gep(start, [offset]), vector.as_pointer()))
    loaded.align = 4
    return loaded


def _broadcast(builder: ir.IRBuilder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    undefined = ir.Constant(vector, ir.Undefined)
    lane = ir.IntType(32)
    first = builder.insert_element(undefined, scalar, ir.Constant(lane, 0))
    mask = ir.Constant(ir.VectorType(lane, LANES), [0] * LANES)
    return builder.shuffle_vector(first, undefined, mask)
