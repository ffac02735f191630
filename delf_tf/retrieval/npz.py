"""NumPy .npz files that may come from strangers: read without pickle, sizes checked first."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from delf_tf.artifacts import StrPath, atomic_write
from delf_tf.checks import invalid, require

MAX_BYTES = 8 << 30
_META = "metadata"

# What zipfile, zlib and numpy's header parser raise on damaged or hostile bytes.
_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    KeyError,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    SyntaxError,
    TypeError,
)


def write_npz(
    path: StrPath, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any] | None = None
) -> Path:
    """Writes arrays, and JSON-able metadata beside them, atomically; equal input gives equal bytes.

    Raises:
      InputError: metadata that JSON cannot hold.
    """
    content = dict(arrays)
    if metadata is not None:
        try:
            content[_META] = np.array(json.dumps(dict(metadata), sort_keys=True))
        except (TypeError, ValueError) as error:
            raise invalid("metadata must be JSON-able.", error_text=str(error)) from None
    with atomic_write(path) as file:
        np.savez_compressed(file, **content)
    return Path(path)


def read_npz(
    path: StrPath,
    required: Sequence[str],
    optional: Sequence[str] = (),
    *,
    max_bytes: int = MAX_BYTES,
    hint: str = "",
) -> dict[str, np.ndarray]:
    """Reads the named arrays; nothing else in the file is touched.

    Args:
      path: the file.
      required: names that must be there.
      optional: names that may be there.
      max_bytes: what the arrays together may take in memory; checked before anything is read.
      hint: what to do when the file is not fit, for the error.

    Raises:
      InputError: no such file, not an .npz, cut short, damaged, a name missing, Python objects
        inside, larger than `max_bytes`.
    """
    path = Path(path)
    require(path.is_file(), "The .npz file must exist.", hint=hint, path=path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = {info.filename[: -len(".npy")] for info in archive.infolist()}
            wanted = [*required, *(name for name in optional if name in names)]
            missing = sorted(set(required) - names)
            require(not missing, "The .npz file must hold every array.", missing=missing, path=path)
            _check_sizes(archive, wanted, max_bytes, path)
            return {name: _read_array(archive, name) for name in wanted}
    except _FAULTS as error:
        if type(error).__module__ == "delf_tf.checks":
            raise
        raise invalid(
            "The file must be a whole .npz of plain arrays.",
            hint=hint or "It is damaged, cut short, or holds Python objects; make it again.",
            path=path,
            fault=f"{type(error).__name__}: {error}",
        ) from None


def read_metadata(path: StrPath) -> dict[str, Any]:
    """Returns the metadata that `write_npz` wrote; an empty dict if there is none.

    Raises:
      InputError: as `read_npz`, or metadata that is not a JSON object.
    """
    arrays = read_npz(path, (), (_META,), max_bytes=1 << 26)
    if _META not in arrays:
        return {}
    try:
        metadata = json.loads(str(arrays[_META][()]))
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise invalid("The file's metadata must be a JSON object.", path=Path(path))
    return metadata


def _check_sizes(
    archive: zipfile.ZipFile, names: Sequence[str], max_bytes: int, path: Path
) -> None:
    total = 0
    for name in names:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as file:
            shape, dtype = _read_header(file)
        num_bytes = math.prod(shape) * dtype.itemsize
        require(
            not dtype.hasobject and num_bytes <= info.file_size,
            "The .npz file's arrays must be plain and as large as their headers say.",
            array=name,
            shape=shape,
            dtype=str(dtype),
            stored_bytes=info.file_size,
            path=path,
        )
        total += num_bytes
    require(
        total <= max_bytes,
        f"The .npz file's arrays must take at most {max_bytes} bytes.",
        num_bytes=total,
        path=path,
    )


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"npy version {version}")
    shape, _, dtype = readers[version](file)
    return shape, dtype


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    file: BinaryIO | Any
    with archive.open(f"{name}.npy") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        # The checksum is compared only when the end of the member is reached.
        if file.read(1):
            raise ValueError(f"bytes after the array {name}")
    return array
