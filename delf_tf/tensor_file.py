"""Arrays in one file: the safetensors format, with checksums, read without trust.

The bytes depend on the arrays and the metadata alone, on no library's version, so that two runs can
be compared file by file. Any safetensors reader opens the files; this one also checks them.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, invalid

MAX_HEADER_BYTES = 64 << 20
_MAX_ITEMS = 1 << 48
# A single key: the order of several is not defined by the format's own library.
_KEY = "delf_tf"
_DTYPES = {
    "F32": "<f4",
    "I64": "<i8",
    "U32": "<u4",
    "U16": "<u2",
    "F16": "<f2",
    "U8": "u1",
    "I8": "i1",
}
_CODES = {np.dtype(text): code for code, text in _DTYPES.items()}
_CHUNK_BYTES = 1 << 22
_DAMAGED = "The file is damaged: make it again, or restore it from a copy."


class Pieces(Protocol):
    """An array that is in memory piece by piece only."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of all pieces."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""

    def pieces(self) -> Iterator[np.ndarray]:
        """Yields contiguous arrays, one behind the other along the first axis; twice the same."""


Tensor = np.ndarray | Pieces


def write(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes `tensors` by name and JSON-able `metadata` to an open file.

    Args:
      file: binary, at its start.
      tensors: little-endian float32, float16, int64, uint32, uint16, uint8 or int8 arrays; their
        checksums stand ahead of them, so pieces are gone through twice.
      metadata: must survive JSON; "crc32" and "header_crc32" are reserved.
    """
    # Wide types first keep every array aligned to its item.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    entries, start = {}, 0
    for name in names:
        dtype, shape = tensors[name].dtype, list(tensors[name].shape)
        stop = start + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [start, stop]}
        start = stop
    content = {**metadata, "crc32": {name: _crc32(_pieces(tensors[name])) for name in names}}
    content["header_crc32"] = zlib.crc32(_canonical([entries, content]))
    header = _canonical({"__metadata__": {_KEY: _canonical(content).decode()}, **entries})
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little") + header)
    for name in names:
        for piece in _pieces(tensors[name]):
            file.write(piece.data if piece.size else b"")


def _pieces(tensor: Tensor) -> Iterator[np.ndarray]:
    if isinstance(tensor, np.ndarray):
        yield np.ascontiguousarray(tensor)
    else:
        yield from tensor.pieces()


def crc32(*arrays: np.ndarray) -> int:
    """Returns the CRC-32 of the arrays' bytes, one after the other."""
    return _crc32(arrays)


def _crc32(arrays: Iterable[np.ndarray]) -> int:
    value = 0
    for array in arrays:
        if array.size:
            value = zlib.crc32(np.ascontiguousarray(array).data, value)
    return value


class TensorFile:
    """A checked header; the arrays are read when asked for.

    Attributes:
      path: the file.
      metadata: what the writer gave.
      shapes: name -> shape.
      dtypes: name -> dtype.
    """

    def __init__(self, path: StrPath):
        """Reads the header.

        Raises:
          InputError: no such file, not this format, truncated, or a header that is inconsistent.
        """
        self.path = Path(path)
        self.metadata: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self._starts: dict[str, int] = {}
        with self.open() as descriptor:
            size = os.fstat(descriptor).st_size
            length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
            if not 0 < length <= min(MAX_HEADER_BYTES, size - 8):
                raise self._damaged("must hold a safetensors header", size=size, header=length)
            raw = os.pread(descriptor, length, 8)
        try:
            self._parse(raw, size)
        except InputError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise self._damaged("must hold a header that delf_tf wrote") from None

    @contextmanager
    def open(self) -> Iterator[int]:
        """Yields a descriptor for `read`, so that several reads share one opening.

        Positioned reads are used rather than a memory map: a mapped file that is truncated by
        somebody else kills the process, and a million images would hold thousands of descriptors.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise self._damaged("must be readable", reason=error.strerror) from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def read(
        self, descriptor: int, name: str, start: int = 0, stop: int | None = None
    ) -> np.ndarray:
        """Returns rows start..stop of an array, a copy; their checksum is the caller's to check.

        Raises:
          InputError: no such array, or the file ends before them.
        """
        if name not in self.shapes:
            raise self._damaged(f"must hold the array '{name}'", arrays=sorted(self.shapes))
        shape, dtype = self.shapes[name], self.dtypes[name]
        stop = shape[0] if stop is None else stop
        row_bytes = math.prod(shape[1:]) * dtype.itemsize
        result = np.empty((stop - start, *shape[1:]), dtype)
        if result.nbytes:
            view = memoryview(result).cast("B")
            at = self._starts[name] + start * row_bytes
            while len(view):
                chunk = os.pread(descriptor, len(view), at)
                if not chunk:
                    raise self._damaged(f"must not end inside '{name}'")
                view[: len(chunk)] = chunk
                view, at = view[len(chunk) :], at + len(chunk)
        return result

    def read_checked(self, descriptor: int, name: str) -> np.ndarray:
        """Returns a whole array after checking its checksum.

        Raises:
          InputError: as `read`, or another checksum.
        """
        array = self.read(descriptor, name)
        self._require_checksum(name, crc32(array))
        return array

    def check(self, descriptor: int, name: str) -> None:
        """Goes through an array to check its checksum, a few megabytes at a time.

        Raises:
          InputError: as `read_checked`.
        """
        num_rows, *rest = self.shapes[name] if math.prod(self.shapes[name]) else (0, 0)
        step = max(_CHUNK_BYTES // max(math.prod(rest) * self.dtypes[name].itemsize, 1), 1)
        rows = (
            self.read(descriptor, name, start, min(start + step, num_rows))
            for start in range(0, num_rows, step)
        )
        self._require_checksum(name, _crc32(rows))

    def map(self, name: str) -> np.ndarray:
        """Returns an array that stays in the file, read-only: for searching, not for strangers.

        Whoever maps a file must keep it as it is: reading what was cut off kills the process.
        """
        shape, dtype = self.shapes[name], self.dtypes[name]
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        return np.memmap(self.path, dtype, mode="r", offset=self._starts[name], shape=shape)

    def _require_checksum(self, name: str, found: int) -> None:
        if found != self.metadata["crc32"][name]:
            raise self._damaged(f"must hold '{name}' as it was written (its checksum differs)")

    def _parse(self, raw: bytes, size: int) -> None:
        entries = json.loads(raw)
        self.metadata = json.loads(entries.pop("__metadata__")[_KEY])
        checksum = self.metadata.pop("header_crc32")
        if zlib.crc32(_canonical([entries, self.metadata])) != checksum:
            raise self._damaged("must have the header it was written with (its checksum differs)")
        end = 0
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
            start, stop = entry["data_offsets"]
            whole = all(isinstance(axis, int) and axis >= 0 for axis in shape) and len(shape) > 0
            # NumPy refuses even an empty array whose other axes overflow.
            whole = whole and math.prod(max(axis, 1) for axis in shape) < _MAX_ITEMS
            if not whole or start != end or stop - start != math.prod(shape) * dtype.itemsize:
                raise self._damaged("must have arrays that follow each other", array=name)
            end = stop
            self.dtypes[name], self.shapes[name] = dtype, shape
            self._starts[name] = 8 + len(raw) + start
        if set(self.metadata["crc32"]) != set(entries):
            raise self._damaged("must have a checksum for each array")
        if 8 + len(raw) + end != size:
            raise self._damaged("must have its full length", size=size, full=8 + len(raw) + end)

    def _damaged(self, must: str, **received: Any) -> InputError:
        return invalid(f"{self.path.name} {must}.", hint=_DAMAGED, path=self.path, **received)


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")
