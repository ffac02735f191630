"""One file for an index: named sections that can be mapped, a header, a checksum over all of it.

Layout: MAGIC, the sections each padded to 64 bytes, the header as JSON, then a trailer of fixed
size: the header's offset and length (little-endian uint64), its SHA-256, MAGIC. A file cut short
has no trailer; a flipped bit breaks one of the two checksums.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf.artifacts import StrPath, atomic_write
from delf_tf.checks import InputError, invalid, require

MAGIC = b"DELFTFI1"
_TRAILER = struct.Struct("<QQ32s8s")
_ALIGNMENT = 64
_MAX_HEADER_BYTES = 1 << 24
_HINT = "The file is damaged or cut short; build the index again."


@dataclasses.dataclass(frozen=True)
class Container:
    """An open container: its header and where its sections lie.

    Attributes:
      path: the file.
      kind: what the file holds, a row of `retrieval.index.INDEX_KINDS`.
      metadata: the facts that its writer put down.
      sections: (offset, size in bytes) by name.
    """

    path: Path
    kind: str
    metadata: dict[str, Any]
    sections: dict[str, tuple[int, int]]

    def bytes(self, name: str) -> bytes:
        """Returns a section's bytes."""
        offset, size = self._section(name)
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def array(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Maps a section as a read-only array; nothing is read before it is used.

        Raises:
          InputError: the section has another size.
        """
        offset, size = self._section(name)
        dtype = np.dtype(dtype)
        expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
        require(
            size == expected,
            f"The section {name} must have {expected} bytes.",
            size=size,
            path=self.path,
        )
        if not size:
            return np.zeros(shape, dtype)
        return np.memmap(self.path, dtype, mode="r", offset=offset, shape=shape)

    def _section(self, name: str) -> tuple[int, int]:
        require(name in self.sections, f"The file must have a section {name}.", path=self.path)
        return self.sections[name]


def write_container(
    path: StrPath,
    kind: str,
    metadata: Mapping[str, Any],
    sections: Mapping[str, Iterable[bytes | memoryview]],
) -> Path:
    """Writes sections, each an iterable of byte chunks, atomically; returns `path`."""
    placed: dict[str, list[int]] = {}
    with atomic_write(path) as file:
        digest = hashlib.sha256()
        offset = 0

        def put(chunk: bytes | memoryview) -> None:
            nonlocal offset
            digest.update(chunk)
            offset += file.write(chunk)

        put(MAGIC)
        for name, chunks in sections.items():
            put(bytes(-offset % _ALIGNMENT))
            start = offset
            for chunk in chunks:
                put(chunk)
            placed[name] = [start, offset - start]
        header = json.dumps(
            {
                "kind": kind,
                "metadata": dict(metadata),
                "sections": placed,
                "sha256": digest.hexdigest(),
            },
            sort_keys=True,
        ).encode("utf-8")
        file.write(header)
        file.write(_TRAILER.pack(offset, len(header), hashlib.sha256(header).digest(), MAGIC))
    return Path(path)


def open_container(path: StrPath, *, check: bool = True) -> Container:
    """Opens a container after checking its header and, with `check`, every byte of its sections.

    Args:
      path: the file.
      check: read the whole file once against its checksum, about a second per 2 GB.

    Raises:
      InputError: no such file, not an index, cut short, damaged.
    """
    path = Path(path)
    require(path.is_file(), "The index must exist.", hint="Build it first: build_index.", path=path)
    size = path.stat().st_size
    with path.open("rb") as file:
        header, end = _read_header(file, size, path)
        if check:
            file.seek(0)
            require(
                _digest(file, end) == header["sha256"],
                "The index must match its checksum.",
                hint=_HINT,
                path=path,
            )
    try:
        sections = {
            str(name): (int(offset), int(length))
            for name, (offset, length) in header["sections"].items()
        }
        container = Container(path, str(header["kind"]), dict(header["metadata"]), sections)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _damaged(path) from None
    for offset, length in sections.values():
        require(0 <= offset <= offset + length <= end, "Sections must lie in the file.", path=path)
    return container


def _read_header(file: Any, size: int, path: Path) -> tuple[dict[str, Any], int]:
    if size < _TRAILER.size + len(MAGIC):
        raise _damaged(path, size=size)
    file.seek(size - _TRAILER.size)
    offset, length, digest, magic = _TRAILER.unpack(file.read(_TRAILER.size))
    whole = offset + length + _TRAILER.size == size and length <= _MAX_HEADER_BYTES
    if magic != MAGIC or not whole:
        raise _damaged(path, size=size)
    file.seek(offset)
    raw = file.read(length)
    if hashlib.sha256(raw).digest() != digest:
        raise _damaged(path)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise _damaged(path) from None
    if not isinstance(header, dict) or not isinstance(header.get("sha256"), str):
        raise _damaged(path)
    return header, offset


def _digest(file: Any, num_bytes: int) -> str:
    digest = hashlib.sha256()
    while num_bytes:
        chunk = file.read(min(num_bytes, 1 << 22))
        digest.update(chunk)
        num_bytes -= len(chunk)
    return digest.hexdigest()


def _damaged(path: Path, **received: Any) -> InputError:
    return invalid("The file must be a whole index file.", hint=_HINT, path=path, **received)
