"""The TFRecord container: framing and checksums, without TensorFlow.

A record is its length (uint64, little endian), the masked CRC-32C of those 8 bytes, the payload and
the payload's masked CRC-32C. TensorFlow's own reader gives up a whole file at the first damaged
byte and does not name the file; `scan` finds what is damaged and `repair` copies what is not.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numba
import numpy as np

from delf_tf import artifacts
from delf_tf.checks import require, require_choice

CHECKS = ("headers", "full")
# An image of 178 Mpx, PIL's own limit, stays below this as JPEG.
MAX_RECORD_BYTES = 1 << 30

_HEADER = struct.Struct("<QI")
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8


@dataclasses.dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used.

    Attributes:
      path: the shard.
      index: position among the shard's records, counting bad ones; -1 for the shard as a whole.
      reason: what is wrong with it.
    """

    path: str
    index: int
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class ShardScan:
    """What a shard holds.

    Attributes:
      path: the shard.
      offsets: int64 [N], where each good record's framing begins, bytes.
      lengths: int64 [N], payload bytes of each good record.
      bad: the damaged records, in order.
    """

    path: str
    offsets: np.ndarray
    lengths: np.ndarray
    bad: tuple[BadRecord, ...] = ()

    @property
    def num_records(self) -> int:
        """Number of good records."""
        return len(self.offsets)


def masked_crc32c(data: bytes) -> int:
    """Returns the masked CRC-32C (Castagnoli) that TFRecord files use, a uint32."""
    crc = int(_crc32c(np.frombuffer(data, np.uint8), _TABLES))
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def write_record(file: BinaryIO, payload: bytes) -> None:
    """Appends one record to an open binary file."""
    length = _LENGTH.pack(len(payload))
    file.write(length)
    file.write(_CRC.pack(masked_crc32c(length)))
    file.write(payload)
    file.write(_CRC.pack(masked_crc32c(payload)))


def scan(path: artifacts.StrPath, *, check: str = "headers") -> ShardScan:
    """Finds the records of a shard.

    Args:
      path: TFRecord file, uncompressed; a remote one ("gs://…") is read through TensorFlow.
      check: "headers" reads 12 bytes a record and finds empty records, damaged lengths and
        truncation; "full" also verifies each payload's checksum.

    Raises:
      InputError: no such file, or an unknown check.
    """
    require_choice("check", check, CHECKS)
    offsets, lengths, bad = [], [], []
    with open_file(path) as file:
        size = file.seek(0, os.SEEK_END) or file.tell()
        offset = index = 0
        if not size:
            bad.append(BadRecord(str(path), -1, "the shard is empty (0 bytes)"))
        while offset < size:
            length, reason, lost = _read_frame(file, offset, size, check)
            if reason:
                bad.append(BadRecord(str(path), index, reason))
            else:
                offsets.append(offset)
                lengths.append(length)
            if lost:
                break
            offset += _HEADER.size + length + _CRC.size
            index += 1
    return ShardScan(
        str(path), np.array(offsets, np.int64), np.array(lengths, np.int64), tuple(bad)
    )


def repair(found: ShardScan, output_path: artifacts.StrPath) -> Path:
    """Writes a copy of a shard with its good records alone and returns the copy's path."""
    with open_file(found.path) as source, artifacts.atomic_write(output_path) as target:
        for offset, length in zip(found.offsets.tolist(), found.lengths.tolist()):
            source.seek(offset)
            target.write(source.read(_HEADER.size + length + _CRC.size))
    return Path(output_path)


def open_file(path: artifacts.StrPath) -> Any:
    """Opens a local or remote file for reading bytes."""
    if "://" in str(path):
        import tensorflow as tf  # noqa: PLC0415 - only remote paths need it

        return tf.io.gfile.GFile(str(path), "rb")
    require(Path(path).is_file(), "A TFRecord shard must be a file.", path=str(path))
    return Path(path).open("rb")


def _read_frame(file: Any, offset: int, size: int, check: str) -> tuple[int, str, bool]:
    """Returns payload length, what is wrong or "", and whether all that follows is lost."""
    file.seek(offset)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return 0, "the shard ends inside a record's header", True
    length, crc = _HEADER.unpack(header)
    if crc != masked_crc32c(header[:8]) or length > MAX_RECORD_BYTES:
        return 0, "the record's length is damaged (CRC); the rest of the shard is lost", True
    if offset + _HEADER.size + length + _CRC.size > size:
        return 0, "the shard ends inside the record", True
    if not length:
        return 0, "the record is empty (0 bytes)", False
    if check == "full":
        payload = file.read(length)
        if _CRC.unpack(file.read(_CRC.size))[0] != masked_crc32c(payload):
            return length, "the record's content is damaged (CRC)", False
    return length, "", False


def _make_tables() -> np.ndarray:
    tables = np.zeros((8, 256), np.uint32)
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        tables[0, value] = crc
    for row in range(1, 8):
        tables[row] = tables[row - 1] >> 8 ^ tables[0][tables[row - 1] & 0xFF]
    return tables


_TABLES = _make_tables()


@numba.njit(cache=True)
def _crc32c(data, tables):  # pragma: no cover - compiled
    """Slicing-by-8: eight bytes a step."""
    crc = np.uint32(0xFFFFFFFF)
    end = len(data) - len(data) % 8
    for i in range(0, end, 8):
        crc = (
            tables[7, data[i] ^ (crc & 0xFF)]
            ^ tables[6, data[i + 1] ^ (crc >> 8 & 0xFF)]
            ^ tables[5, data[i + 2] ^ (crc >> 16 & 0xFF)]
            ^ tables[4, data[i + 3] ^ (crc >> 24 & 0xFF)]
            ^ tables[3, data[i + 4]]
            ^ tables[2, data[i + 5]]
            ^ tables[1, data[i + 6]]
            ^ tables[0, data[i + 7]]
        )
    for i in range(end, len(data)):
        crc = crc >> 8 ^ tables[0, (crc ^ data[i]) & 0xFF]
    return ~np.uint32(crc) & np.uint32(0xFFFFFFFF)
