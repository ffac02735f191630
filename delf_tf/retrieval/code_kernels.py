"""Codes of local features, made and laid out for `block_scan`: loops that run without the GIL."""

from __future__ import annotations

import numba
import numpy as np

from delf_tf.retrieval.block_scan import BLOCK
from delf_tf.retrieval.words.loops import entry

_inner = numba.njit(nogil=True)


@entry
def encode(residuals: np.ndarray, codebooks: np.ndarray, num_bits: int, codes: np.ndarray) -> None:
    """Writes each residual's product code, the first run in the lowest bits of the first byte.

    Args:
      residuals: float32 [N, D].
      codebooks: float32 [M, 2^b, D / M].
      num_bits: b.
      codes: uint8 [N, bytes], filled.
    """
    parts, choices, width = codebooks.shape
    for row in range(len(residuals)):
        code = np.uint64(0)
        for part in range(parts):
            best, chosen = np.float32(np.inf), 0
            for choice in range(choices):
                distance = np.float32(0)
                for column in range(width):
                    gap = residuals[row, part * width + column] - codebooks[part, choice, column]
                    distance += gap * gap
                if distance < best:
                    best, chosen = distance, choice
            code |= np.uint64(chosen) << np.uint64(part * num_bits)
        for byte in range(codes.shape[1]):
            codes[row, byte] = (code >> np.uint64(8 * byte)) & np.uint64(255)


@_inner
def block_bytes(num_parts: int, num_bits: int) -> int:
    """Returns the bytes of a block of codes, see `code_blocks`."""
    num_pairs = (num_parts + 1) // 2
    return BLOCK * num_pairs + 2 * num_pairs * max(num_bits - 4, 0) * (BLOCK // 8)


@_inner
def part_of(blocks: np.ndarray, block: int, lane: int, part: int, shape: tuple[int, int]) -> int:
    """Returns a part of a block's code; shape is (pairs of parts, bits of a part above four)."""
    num_pairs, num_planes = shape
    code = (blocks[block, (part >> 1) * BLOCK + lane] >> (4 * (part & 1))) & 15
    at = num_pairs * BLOCK + part * 8 + (lane >> 3)
    for plane in range(num_planes):
        code |= ((blocks[block, at] >> (lane & 7)) & 1) << (4 + plane)
        at += num_pairs * 16
    return code


@entry
def pack(
    ends: tuple[np.ndarray, np.ndarray],
    codes: np.ndarray,
    shape: tuple[int, int],
    blocks: np.ndarray,
) -> None:
    """Writes codes as blocks.

    Args:
      ends: of the lists' postings and of their blocks, int64 [C + 1] each.
      codes: uint8 [P, bytes], as `encode` writes them.
      shape: (parts, bits) of a code.
      blocks: uint8 [B, bytes] of zeros, filled.
    """
    offsets, starts = ends
    num_parts, num_bits = shape
    num_pairs = (num_parts + 1) // 2
    for index in range(len(offsets) - 1):
        for at in range(offsets[index], offsets[index + 1]):
            row = at - offsets[index]
            block, lane = blocks[starts[index] + row // BLOCK], row % BLOCK
            code = np.uint64(0)
            for byte in range(codes.shape[1]):
                code |= np.uint64(codes[at, byte]) << np.uint64(8 * byte)
            for part in range(num_parts):
                value = np.int64(code >> np.uint64(part * num_bits)) & ((1 << num_bits) - 1)
                block[(part >> 1) * BLOCK + lane] |= (value & 15) << (4 * (part & 1))
                for plane in range(num_bits - 4):
                    word = num_pairs * (BLOCK + 16 * plane) + part * 8
                    block[word + (lane >> 3)] |= (value >> (4 + plane) & 1) << (lane & 7)


@entry
def unpack(
    ends: tuple[np.ndarray, np.ndarray],
    blocks: np.ndarray,
    shape: tuple[int, int],
    codes: np.ndarray,
) -> None:
    """Writes the codes of blocks as rows: what `pack` does, back."""
    offsets, starts = ends
    num_parts, num_bits = shape
    inner = (num_parts + 1) // 2, max(num_bits - 4, 0)
    for index in range(len(offsets) - 1):
        for at in range(offsets[index], offsets[index + 1]):
            row = at - offsets[index]
            block, lane = starts[index] + row // BLOCK, row % BLOCK
            code = np.uint64(0)
            for part in range(num_parts):
                value = part_of(blocks, block, lane, part, inner)
                code |= np.uint64(value) << np.uint64(part * num_bits)
            for byte in range(codes.shape[1]):
                codes[at, byte] = (code >> np.uint64(8 * byte)) & np.uint64(255)
