"""Codebooks in TensorFlow's checkpoint format, as the original DELF publishes them.

A checkpoint PREFIX is PREFIX.index, a sorted table of names (LevelDB's table format) whose values
tell where each tensor lies, and PREFIX.data-00000-of-00001, the tensors' bytes. Both are simple
enough to be read without TensorFlow; each block and tensor is checked against its CRC-32C.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import as_array, invalid, require
from delf_tf.retrieval.words.loops import entry

# The published codebooks, one saved as a plain variable, and the original's own training tool.
NAMES = ("codebook/.ATTRIBUTES/VARIABLE_VALUE", "codebook", "clusters")

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_BLOCK_TRAILER_BYTES = 5
_MAX_INDEX_BYTES = 64 << 20
_FLOAT32 = 1
_CRC_DELTA = 0xA282EAD8


def read_codebook_checkpoint(prefix: StrPath) -> np.ndarray:
    """Reads the codebook of a checkpoint.

    Args:
      prefix: path without ".index" and ".data-00000-of-00001".

    Returns:
      float32 [K, D].

    Raises:
      InputError: no such files, damaged, compressed or sharded, no codebook in it.
    """
    prefix = Path(prefix)
    index_path = prefix.with_name(prefix.name + ".index")
    data_path = prefix.with_name(prefix.name + ".data-00000-of-00001")
    for path in (index_path, data_path):
        require(
            path.is_file(),
            "A checkpoint must have its .index and .data-00000-of-00001 file.",
            hint="Give the path without these endings.",
            path=path,
        )
    require(index_path.stat().st_size <= _MAX_INDEX_BYTES, "The index must be small.", path=prefix)
    try:
        table = _read_table(index_path.read_bytes())
        name = next((name for name in NAMES if name.encode() in table), None)
        if name is None:
            raise ValueError(f"no tensor named {' or '.join(NAMES)}")
        return _read_tensor(table[name.encode()], data_path)
    except (ValueError, IndexError, OverflowError) as error:
        raise invalid(
            "The checkpoint must hold a whole float32 codebook [K, D].",
            path=prefix,
            fault=str(error),
        ) from None


def _read_table(raw: bytes) -> dict[bytes, bytes]:
    footer = raw[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != _MAGIC:
        raise ValueError("not a checkpoint's index")
    at = 0
    for _ in range(2):  # The handle of a block of statistics, which is not used.
        _, at = _varint(footer, at)
    offset, at = _varint(footer, at)
    size, _ = _varint(footer, at)
    table: dict[bytes, bytes] = {}
    for _, handle in _block(raw, offset, size):
        offset, at = _varint(handle, 0)
        size, _ = _varint(handle, at)
        table.update(_block(raw, offset, size))
    return table


def _block(raw: bytes, offset: int, size: int) -> list[tuple[bytes, bytes]]:
    """Returns a block's keys and values; keys are stored without what they share with the last."""
    end = offset + size
    if size < 4 or end + _BLOCK_TRAILER_BYTES > len(raw) - _FOOTER_BYTES:
        raise ValueError("a block outside of the file")
    if raw[end] != 0:
        raise ValueError("a compressed block")
    _check_crc(raw[offset : end + 1], int.from_bytes(raw[end + 1 : end + 5], "little"))
    block = raw[offset:end]
    num_restarts = int.from_bytes(block[-4:], "little")
    stop = len(block) - 4 - 4 * num_restarts
    entries, key, at = [], b"", 0
    while at < stop:
        shared, at = _varint(block, at)
        added, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + added + length > stop:
            raise ValueError("an entry outside of its block")
        key = key[:shared] + block[at : at + added]
        entries.append((key, block[at + added : at + added + length]))
        at += added + length
    return entries


def _read_tensor(entry_bytes: bytes, data_path: Path) -> np.ndarray:
    fields = _fields(entry_bytes)
    axes = [axis for axis in _fields(_bytes(fields, 2)).get(2, []) if isinstance(axis, bytes)]
    shape = [_number(_fields(axis).get(1, [0])) for axis in axes]
    offset, size = (_number(fields.get(number, [0])) for number in (4, 5))
    if _number(fields.get(1, [0])) != _FLOAT32 or len(shape) != 2 or _number(fields.get(3, [0])):
        raise ValueError(f"a tensor of shape {shape} that is not float32 [K, D] in one shard")
    if size != 4 * math.prod(shape) or offset + size > data_path.stat().st_size:
        raise ValueError("a tensor outside of the file")
    with data_path.open("rb") as file:
        file.seek(offset)
        raw = file.read(size)
    _check_crc(raw, _number(fields.get(6, [0])))
    return as_array("codebook", np.frombuffer(raw, "<f4").reshape(shape), ("K", "D"))


def _fields(message: bytes) -> dict[int, list[int | bytes]]:
    """Splits a protocol-buffer message in its fields, by number."""
    fields: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        value: int | bytes
        if tag & 7 == 0:
            value, at = _varint(message, at)
        elif tag & 7 == 5:
            value, at = int.from_bytes(message[at : at + 4], "little"), at + 4
        elif tag & 7 == 2:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        else:
            raise ValueError("an unknown kind of field")
        if at > len(message):
            raise ValueError("a field cut short")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _number(values: list[int | bytes]) -> int:
    if not isinstance(values[-1], int):
        raise ValueError("a field of the wrong kind")
    return values[-1]


def _bytes(fields: dict[int, list[int | bytes]], number: int) -> bytes:
    value = fields.get(number, [b""])[-1]
    if not isinstance(value, bytes):
        raise ValueError("a field of the wrong kind")
    return value


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _check_crc(raw: bytes, expected: int) -> None:
    value = int(_crc32c(np.frombuffer(raw, np.uint8), _crc_table()))
    # Stored rotated by 15 bits and shifted, so that a checksum of checksums stays useful.
    masked = (((value >> 15) | (value << 17)) + _CRC_DELTA) & 0xFFFFFFFF
    if masked != expected:
        raise ValueError("a checksum that differs")


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table.astype(np.uint32)


@entry
def _crc32c(raw: np.ndarray, table: np.ndarray) -> np.unsignedinteger:
    value = np.uint32(0xFFFFFFFF)
    for byte in raw:
        value = table[(value ^ byte) & np.uint32(255)] ^ (value >> np.uint32(8))
    return value ^ np.uint32(0xFFFFFFFF)
