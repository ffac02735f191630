"""Lists of codes in blocks: what goes in comes out, in whatever pieces."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.retrieval.code_blocks import CodeLists


def _codes(num, num_parts, num_bits, seed=0):
    parts = np.random.default_rng(seed).integers(0, 1 << num_bits, (num, num_parts))
    whole = [sum(int(one) << num_bits * at for at, one in enumerate(row)) for row in parts]
    num_bytes = -(-num_parts * num_bits // 8)
    rows = [np.frombuffer(one.to_bytes(num_bytes, "little"), np.uint8) for one in whole]
    return parts, np.array(rows).reshape(num, num_bytes)


def _part(block, lane, part, num_parts, num_bits):
    num_pairs = -(-num_parts // 2)
    value = int(block[64 * (part // 2) + lane]) >> 4 * (part % 2) & 15
    for plane in range(num_bits - 4):
        words = block[64 * num_pairs + 16 * num_pairs * plane :]
        bits = np.unpackbits(words[8 * part : 8 * part + 8], bitorder="little")
        value |= int(bits[lane]) << 4 + plane
    return value


@pytest.mark.parametrize("shape", [(10, 5), (8, 8), (5, 4), (3, 6), (2, 2), (1, 1), (9, 7)])
def test_codes_lie_in_blocks_of_64_and_come_back(shape):
    parts, rows = _codes(300, *shape)
    cells = np.random.default_rng(1).integers(0, 4, 300)
    lists = CodeLists(5, *shape)
    lists.append(cells, np.arange(300), rows)
    assert len(lists) == 300
    blocks = lists.blocks()
    np.testing.assert_array_equal(np.diff(blocks.starts), -(-np.diff(blocks.offsets) // 64))
    for cell in range(5):
        owners = blocks.owners[blocks.offsets[cell] : blocks.offsets[cell + 1]]
        np.testing.assert_array_equal(owners, np.flatnonzero(cells == cell))
        for row, owner in enumerate(owners):
            block = blocks.blocks[blocks.starts[cell] + row // 64]
            found = [_part(block, row % 64, part, *shape) for part in range(shape[0])]
            np.testing.assert_array_equal(found, parts[owner])
    stored = lists.arrays()
    np.testing.assert_array_equal(stored["payload"], rows[stored["owners"]])


def test_lists_made_in_pieces_are_those_made_at_once():
    _, rows = _codes(500, 10, 5)
    cells = np.random.default_rng(2).integers(0, 7, 500)
    whole, pieces = CodeLists(7, 10, 5), CodeLists(7, 10, 5)
    whole.append(cells, np.arange(500), rows)
    for start in range(0, 500, 125):
        chosen = np.arange(start, start + 125)
        pieces.append(cells[chosen], chosen, rows[chosen])
        assert len(pieces) == start + 125
        assert len(pieces.blocks().owners) == start + 125
    for one, other in zip(whole.blocks(), pieces.blocks()):
        np.testing.assert_array_equal(one, other)


def test_fifty_bits_a_code():
    _, rows = _codes(640, 10, 5)
    lists = CodeLists(1, 10, 5)
    assert lists.num_bytes == 2 * 8 * 2
    lists.append(np.zeros(640, int), np.arange(640), rows)
    assert lists.num_bytes == 640 * 4 + 640 * 50 // 8 + 2 * 8 * 2


def test_empty_lists():
    lists = CodeLists(3, 10, 5)
    assert len(lists) == 0
    assert {name: len(array) for name, array in lists.arrays().items()} == {
        "list_offsets": 4,
        "owners": 0,
        "payload": 0,
    }
