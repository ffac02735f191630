"""Comparing 64 product codes at a time with small tables, in SIMD registers.

F. André, A.-M. Kermarrec, N. Le Scouarnec, "Cache locality is not enough: high-performance nearest
neighbor search with product quantization fast scan", VLDB 2015: a table of 16 bytes fits a register
and one instruction looks up all its lanes. Here two such tables make one of 32, for codes of five
bits. The form below is LLVM's own and portable: it becomes `pshufb` on x86 and `tbl` on ARM.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

# Codes in a block, a bit each of a uint64.
BLOCK = 64
# Entries of a part's table.
TABLE = 32
_LANES = 16
# Bytes of a cache line.
_LINE = 64
_BYTE, _INDEX, _WORD = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BYTES = ir.VectorType(_BYTE, _LANES)


def _number(value: int) -> ir.Constant:
    return ir.Constant(_WORD, value)


def _filled(value: int) -> ir.Constant:
    return ir.Constant(_BYTES, [value] * _LANES)


def _start(builder: ir.IRBuilder, array: Any, offset: ir.Value) -> ir.Value:
    return builder.gep(builder.bitcast(array.data, ir.PointerType(_BYTE)), [offset])


def _load(builder: ir.IRBuilder, start: ir.Value, offset: ir.Value, kind: ir.Type) -> ir.Value:
    place = builder.bitcast(builder.gep(start, [offset]), ir.PointerType(kind))
    return builder.load(place, align=1)


def _look_up(builder: ir.IRBuilder, table: ir.Value, at: ir.Value) -> ir.Value:
    """Emits table[at] for every lane; LLVM knows the sequence for one shuffle by register."""
    values = ir.Constant(_BYTES, ir.Undefined)
    for lane in range(_LANES):
        place = builder.zext(builder.extract_element(at, ir.Constant(_INDEX, lane)), _INDEX)
        value = builder.extract_element(table, place)
        values = builder.insert_element(values, value, ir.Constant(_INDEX, lane))
    return values


def _lanes_of(builder: ir.IRBuilder, word: ir.Value, run: int) -> ir.Value:
    """Emits the run's bits of a 64-bit word, a lane each."""
    bits = builder.trunc(builder.lshr(word, _number(run * _LANES)), ir.IntType(_LANES))
    return builder.bitcast(bits, ir.VectorType(ir.IntType(1), _LANES))


def _emit_scan(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
    blocks, number, tables, has_planes, limit = arguments
    blocks, tables = (
        context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 2)
    )
    size = cgutils.unpack_tuple(builder, blocks.shape)[1]
    num_pairs = builder.udiv(cgutils.unpack_tuple(builder, tables.shape)[0], _number(2))
    block = _start(builder, blocks, builder.mul(number, size))
    planes = builder.gep(block, [builder.mul(num_pairs, _number(BLOCK))])
    table = _start(builder, tables, _number(0))
    runs = range(BLOCK // _LANES)
    sums = [cgutils.alloca_once_value(builder, _filled(0)) for _ in runs]
    add = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(_BYTES, [_BYTES, _BYTES]),
        f"llvm.uadd.sat.v{_LANES}i8",
    )
    with cgutils.for_range(builder, num_pairs, intp=_WORD) as loop:
        for side in range(2):
            part = builder.add(builder.mul(loop.index, _number(2)), _number(side))
            start = builder.mul(part, _number(TABLE))
            low = _load(builder, table, start, _BYTES)
            high = _load(builder, table, builder.add(start, _number(_LANES)), _BYTES)
            # Without a fifth bit, a word of the low ones is read in its stead and not used.
            place = builder.select(has_planes, builder.mul(part, _number(8)), _number(-8))
            plane = _load(builder, planes, place, _WORD)
            plane = builder.select(has_planes, plane, _number(0))
            for run in runs:
                at = builder.add(builder.mul(loop.index, _number(BLOCK)), _number(run * _LANES))
                pair = _load(builder, block, at, _BYTES)
                code = builder.lshr(pair, _filled(4)) if side else builder.and_(pair, _filled(15))
                value = builder.select(
                    _lanes_of(builder, plane, run),
                    _look_up(builder, high, code),
                    _look_up(builder, low, code),
                )
                builder.store(builder.call(add, [builder.load(sums[run]), value]), sums[run])
    return _emit_mask(builder, [builder.load(one) for one in sums], limit)


def _emit_mask(builder: ir.IRBuilder, sums: list[ir.Value], limit: ir.Value) -> ir.Value:
    """Emits a word of 64 bits, each whether its lane is at most the limit."""
    first = ir.Constant(_INDEX, 0)
    everywhere = ir.Constant(ir.VectorType(_INDEX, _LANES), [0] * _LANES)
    limits = builder.insert_element(ir.Constant(_BYTES, ir.Undefined), limit, first)
    limits = builder.shuffle_vector(limits, limits, everywhere)
    mask: ir.Value = _number(0)
    for run, one in enumerate(sums):
        near = builder.bitcast(builder.icmp_unsigned("<=", one, limits), ir.IntType(_LANES))
        near = builder.shl(builder.zext(near, _WORD), _number(run * _LANES))
        mask = builder.or_(mask, near)
    return mask


def _type_scan(
    _context: Any, blocks: Any, _block: Any, tables: Any, _has_planes: Any, _limit: Any
) -> Any:
    kinds = blocks, types.int64, tables, types.boolean, types.uint8
    return types.uint64(*kinds), _emit_scan


def _emit_lowest_bit(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
    return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))


def _type_lowest_bit(_context: Any, _word: Any) -> Any:
    return types.int64(types.uint64), _emit_lowest_bit


def _emit_prefetch(context: Any, builder: Any, signature: Any, arguments: Any) -> ir.Value:
    rows = context.make_array(signature.args[0])(context, builder, arguments[0])
    size = cgutils.unpack_tuple(builder, rows.strides)[0]
    row = _start(builder, rows, builder.mul(arguments[1], size))
    pointer, void = ir.PointerType(_BYTE), ir.VoidType()
    prefetch = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(void, [pointer, _INDEX, _INDEX, _INDEX]),
        "llvm.prefetch.p0",
    )
    lines = builder.udiv(builder.add(size, _number(_LINE - 1)), _number(_LINE))
    with cgutils.for_range(builder, lines, intp=_WORD) as loop:
        place = builder.gep(row, [builder.mul(loop.index, _number(_LINE))])
        # For reading, into all caches but the first, as data.
        builder.call(prefetch, [place, *(ir.Constant(_INDEX, one) for one in (0, 2, 1))])
    return context.get_dummy_value()


def _type_prefetch(_context: Any, rows: Any, _row: Any) -> Any:
    return types.void(rows, types.int64), _emit_prefetch


# scan(blocks uint8 [B, bytes], block, tables uint8 [2 * pairs, 32], has_planes, limit uint8): the
# uint64 whose bit i says whether code i of the block has parts whose table entries add up to at
# most `limit`; a sum above 255 counts as 255. The layout of a block is that of `code_blocks`.
scan: Any = intrinsic(_type_scan)
# lowest_bit(word uint64): the number of its lowest set bit; 64 if there is none.
lowest_bit: Any = intrinsic(_type_lowest_bit)
# prefetch(rows, row): begins to bring a row of a contiguous array to the caches.
prefetch: Any = intrinsic(_type_prefetch)
