"""NumPy .npz files, which may come from strangers: read without pickle, sizes checked first."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf.artifacts import StrPath, atomic_write
from delf_tf.checks import InputError, invalid, require

MAX_BYTES = 8 << 30
# What is honest unpacks to less: to so many times the file's size, or to so much of a small file.
_MAX_RATIO, _MIN_BYTES = 128, 16 << 20
_MAX_ENTRIES = 100_000
_MAX_TEXT_BYTES = 64 << 20
_KINDS = "biufcSU"
_META = "metadata"
# A fixed date, so that equal content makes equal files.
_DATE = (1980, 1, 1, 0, 0, 0)


class NpzReader:
    """An open .npz file, a context manager; nothing is read before it is asked for."""

    def __init__(self, path: StrPath, *, max_bytes: int = MAX_BYTES, hint: str = ""):
        """Opens a file.

        Args:
          path: the file.
          max_bytes: what is read from it may take in memory, altogether; less if the file is small.
          hint: what to do when it is not fit, for errors.

        Raises:
          InputError: no such file, or it is damaged. So do all methods raise.
        """
        self.path, self._hint = Path(path), hint
        require(self.path.is_file(), "The .npz file must exist.", hint=hint, path=self.path)
        self.max_bytes = min(max_bytes, max(_MIN_BYTES, _MAX_RATIO * self.path.stat().st_size))
        self._left = self.max_bytes
        with self._told():
            self._archive = zipfile.ZipFile(self.path)
        members = self._archive.namelist()
        # NumPy writes no others; decoders of the others can be made to allocate gigabytes.
        methods = {entry.compress_type for entry in self._archive.infolist()}
        fits = methods <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
        if not fits or len(set(members)) < len(members) or len(members) > _MAX_ENTRIES:
            self._archive.close()
            raise invalid(
                f"A whole .npz file must hold each of at most {_MAX_ENTRIES} names once, "
                "stored or deflated.",
                hint=hint,
                path=self.path,
            )
        self.members = frozenset(members)
        self.names = tuple(one.removesuffix(".npy") for one in members if one.endswith(".npy"))

    def __enter__(self) -> NpzReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Returns the shape and dtype of an array, whatever they are."""
        with self._told(name):
            return self._header(f"{name}.npy")[:2]

    def array(self, name: str) -> np.ndarray:
        """Returns an array, of numbers, truth values or text, once its size is known to be true."""
        member = f"{name}.npy"
        with self._told(name):
            size = self._archive.getinfo(member).file_size
            shape, dtype, start = self._header(member)
            fits = dtype.itemsize > 0 and math.prod(shape) * dtype.itemsize == size - start
            if dtype.kind not in _KINDS or min(shape, default=0) < 0 or not fits:
                raise ValueError(
                    f"arrays must be plain and as large as their headers say: {dtype}, {shape}"
                )
            self._spend(size)
            with self._archive.open(member) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
                # The checksum is compared only when the end of the member is reached.
                if file.read(1):
                    raise ValueError("bytes after the array")
            # Letters that are none would break Python much later.
            if dtype.kind == "U":
                letters = array.reshape(-1).view(f"{dtype.byteorder}u4")
                if letters.max(initial=0) > sys.maxunicode:
                    raise ValueError("no Unicode")
        return array

    def text(self, member: str, max_bytes: int = _MAX_TEXT_BYTES) -> str:
        """Returns a member that is no array, UTF-8 text of at most `max_bytes`."""
        with self._told(member):
            size = self._archive.getinfo(member).file_size
            if size > max_bytes:
                raise ValueError(f"text must take at most {max_bytes} bytes, not {size}")
            self._spend(size)
            return self._archive.read(member).decode("utf-8")

    def _header(self, member: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        with self._archive.open(member) as file:
            shape, _, dtype = readers[np.lib.format.read_magic(file)](file)
            return shape, dtype, file.tell()

    def _spend(self, num_bytes: int) -> None:
        self._left -= num_bytes
        require(
            self._left >= 0,
            f"What is read from the .npz file must take at most {self.max_bytes} bytes.",
            hint=self._hint,
            path=self.path,
            num_bytes=self.max_bytes - self._left,
        )

    @contextlib.contextmanager
    def _told(self, part: str = "") -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # What damaged bytes do to zipfile and NumPy is open-ended.
            raise invalid(
                "It must be a whole .npz file, undamaged and of plain arrays.",
                hint=self._hint or "Make it again.",
                path=self.path,
                part=part,
                fault=" ".join(f"{type(error).__name__}: {error}".split())[:150],
            ) from None


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
    with NpzReader(path, max_bytes=max_bytes, hint=hint) as reader:
        missing = sorted(set(required) - set(reader.names))
        require(
            not missing,
            "The .npz file must hold every array.",
            hint=hint,
            missing=missing,
            path=reader.path,
        )
        wanted = [*required, *(name for name in optional if name in reader.names)]
        return {name: reader.array(name) for name in wanted}


def read_metadata(path: StrPath) -> dict[str, Any]:
    """Returns the metadata that `write_npz` wrote; an empty dict if there is none.

    Raises:
      InputError: as `read_npz`, or metadata that is not a JSON object.
    """
    arrays = read_npz(path, (), (_META,), max_bytes=_MAX_TEXT_BYTES)
    if _META not in arrays:
        return {}
    try:
        metadata = json.loads(str(arrays[_META][()]))
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise invalid("The file's metadata must be a JSON object.", path=Path(path))
    return metadata


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


def write_with_text(
    path: StrPath, arrays: Mapping[str, np.ndarray], member: str, text: str
) -> Path:
    """Writes a member of text, then the arrays by name, uncompressed; atomic, equal bytes again."""
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(member, _DATE), text)
        for name in sorted(arrays):
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True) as one:
                np.lib.format.write_array(one, np.asarray(arrays[name], order="C"))
    return Path(path)
