"""The inner loop of nearest neighbours, written as LLVM vectors.

LLVM does not keep a block of sums in registers when it vectorises nested loops, which costs half of
the speed. The instruction sequence is therefore spelled out: ROWS x COLS sums are held in vector
registers while one loop runs over the descriptors' components, and are compared with the best so
far before they are forgotten. The IR is generic; LLVM lowers it to whatever vector unit there is.
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


_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)


@intrinsic
def score_tile(typingctx: Any, rows: Any, panels: Any, place: Any, by_row: Any, by_col: Any) -> Any:
    """Scores ROWS rows against a panel of COLS columns and keeps what beats the best so far.

    score[r, c] = sum over k of rows[first_row + r, k] * panels[panel, k, c]. Earlier columns and
    rows win ties.

    Args:
      typingctx: Numba's.
      rows: float32 [N, K], C-contiguous; first_row + ROWS <= N.
      panels: float32 [P, K, COLS], C-contiguous.
      place: intp (first_row, panel).
      by_row: (best float32 [ROWS, COLS], the panels int32 [ROWS, COLS] they came from[, second
        best float32 [ROWS, COLS]]), updated. Lanes are kept apart.
      by_col: (best float32 [P, COLS], the rows int32 [P, COLS] they came from), updated.
    """
    return types.void(rows, panels, place, by_row, by_col), _emit


def _emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
    def data(kind: Any, value: ir.Value) -> Any:
        return context.make_array(kind)(context, builder, value)

    rows, panels = data(signature.args[0], args[0]), data(signature.args[1], args[1])
    first_row, panel = cgutils.unpack_tuple(builder, args[2])
    by_row, by_col = (
        [
            data(kind, v).data
            for kind, v in zip(signature.args[n], cgutils.unpack_tuple(builder, args[n]))
        ]
        for n in (3, 4)
    )
    index = first_row.type
    depth = cgutils.unpack_tuple(builder, rows.shape)[1]
    start = builder.gep(rows.data, [builder.mul(first_row, depth)])
    row_starts = [builder.gep(start, [builder.mul(index(r), depth)]) for r in range(ROWS)]
    columns = builder.gep(panels.data, [builder.mul(panel, builder.mul(depth, index(COLS)))])
    sums = _emit_product(builder, row_starts, columns, depth)
    number = _broadcast(builder, builder.trunc(panel, ir.IntType(32)), _INTS)
    for (r, v), score in sums.items():
        _emit_row(builder, by_row, index(r * COLS + v * LANES), score, number)
    for v in range(_VECTORS):
        at = builder.add(builder.mul(panel, index(COLS)), index(v * LANES))
        _emit_columns(builder, by_col, at, [sums[r, v] for r in range(ROWS)], first_row)
    return context.get_dummy_value()


def _emit_product(
    builder: ir.IRBuilder, row_starts: list[ir.Value], columns: ir.Value, depth: ir.Value
) -> dict[tuple[int, int], ir.Value]:
    """Emits the loop over components; returns the sums by (row, vector)."""
    index = depth.type
    before = builder.block
    loop = builder.append_basic_block("components")
    done = builder.append_basic_block("scored")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(index)
    k.add_incoming(index(0), before)
    cells = [(r, v) for r in range(ROWS) for v in range(_VECTORS)]
    sums = {cell: builder.phi(_FLOATS) for cell in cells}
    for phi in sums.values():
        phi.add_incoming(_FLOATS([0.0] * LANES), before)
    line = builder.gep(columns, [builder.mul(k, index(COLS))])
    parts = [_load(builder, line, index(v * LANES), _FLOATS) for v in range(_VECTORS)]
    totals = {}
    for r, row_start in enumerate(row_starts):
        factor = _broadcast(builder, builder.load(builder.gep(row_start, [k])), _FLOATS)
        for v, part in enumerate(parts):
            product = builder.fmul(factor, part, flags=["contract"])
            totals[r, v] = builder.fadd(product, sums[r, v], flags=["contract"])
    following = builder.add(k, index(1))
    k.add_incoming(following, loop)
    for cell in cells:
        sums[cell].add_incoming(totals[cell], loop)
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
    builder.position_at_end(done)
    return totals


def _emit_row(
    builder: ir.IRBuilder, by_row: list[ir.Value], at: ir.Value, score: ir.Value, panel: ir.Value
) -> None:
    best, where = _load(builder, by_row[0], at, _FLOATS), _load(builder, by_row[1], at, _INTS)
    better = builder.fcmp_ordered(">", score, best)
    for runner_up in by_row[2:]:
        lesser = builder.select(better, best, score)
        second = _load(builder, runner_up, at, _FLOATS)
        higher = builder.fcmp_ordered(">", lesser, second)
        _store(builder, runner_up, at, builder.select(higher, lesser, second))
    _store(builder, by_row[0], at, builder.select(better, score, best))
    _store(builder, by_row[1], at, builder.select(better, panel, where))


def _emit_columns(
    builder: ir.IRBuilder,
    by_col: list[ir.Value],
    at: ir.Value,
    scores: list[ir.Value],
    first_row: ir.Value,
) -> None:
    best, where = _load(builder, by_col[0], at, _FLOATS), _load(builder, by_col[1], at, _INTS)
    for r, score in enumerate(scores):
        row = builder.trunc(builder.add(first_row, first_row.type(r)), ir.IntType(32))
        better = builder.fcmp_ordered(">", score, best)
        best = builder.select(better, score, best)
        where = builder.select(better, _broadcast(builder, row, _INTS), where)
    _store(builder, by_col[0], at, best)
    _store(builder, by_col[1], at, where)


def _load(builder: ir.IRBuilder, start: ir.Value, at: ir.Value, vector: ir.VectorType) -> ir.Value:
    loaded = builder.load(builder.bitcast(builder.gep(start, [at]), vector.as_pointer()))
    loaded.align = 4
    return loaded


def _store(builder: ir.IRBuilder, start: ir.Value, at: ir.Value, value: ir.Value) -> None:
    place = builder.bitcast(builder.gep(start, [at]), value.type.as_pointer())
    builder.store(value, place).align = 4


def _broadcast(builder: ir.IRBuilder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    undefined = vector(ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(first, undefined, _INTS([0] * LANES))
