"""PyTorch's own files without PyTorch: the archives of 1.6 and later, and the pickles before it.

Both are a pickle in which tensors are views of storages, and the storages' bytes elsewhere.
"""

from __future__ import annotations

import functools
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.safe_pickle import RefusedError, Unpickler, read

# What a file before 1.6 begins with, as a pickle of its own.
_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_HEAD_BYTES = 1024
_DTYPES = {
    "Double": "<f8",
    "Float": "<f4",
    "Half": "<f2",
    "BFloat16": "<u2",
    "Long": "<i8",
    "Int": "<i4",
    "Short": "<i2",
    "Char": "<i1",
    "Byte": "<u1",
    "Bool": "<u1",
}


def load(path: StrPath, *, max_bytes: int) -> Any:
    """Reads what `torch.save` wrote, tensors as arrays, without running anything.

    Args:
      path: the file.
      max_bytes: largest file that is read.

    Returns:
      What safe_pickle.load returns; bfloat16 becomes float32.

    Raises:
      InputError: too large, or it holds more than tensors and plain containers.
      ValueError, KeyError and others: damaged.
    """
    path = Path(path)
    num_bytes = path.stat().st_size
    require(
        num_bytes <= max_bytes, f"A weights file must have at most {max_bytes} bytes.", path=path
    )
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _load_archive(archive, num_bytes, str(path))
    return _load_pickles(path.read_bytes(), str(path))


def _load_archive(archive: zipfile.ZipFile, num_bytes: int, name: str) -> Any:
    (pickled,) = [entry for entry in archive.namelist() if entry.endswith("/data.pkl")]
    folder = pickled[: -len("data.pkl")]

    def find(key: str, length: int) -> bytes:
        return _member(archive, f"{folder}data/{key}")[:length]

    return read(_TensorUnpickler(_member(archive, pickled), num_bytes, find), name)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError("a compressed member")
    return archive.read(name)


def _load_pickles(data: bytes, name: str) -> Any:
    """Reads a magic number, a version, the machine, the content, the keys and the storages."""
    at = 0
    head = []
    for _ in range(3):
        unpickler = Unpickler(data[at : at + _MAX_HEAD_BYTES])
        head.append(read(unpickler, name))
        at += unpickler.file.tell()
    if head[0] != _MAGIC or not head[2]["little_endian"]:
        raise ValueError("no PyTorch file of a little-endian machine")
    # The content tells the storages' lengths, and must be read to find where they begin.
    lengths: dict[str, int] = {}

    def measure(key: str, length: int) -> bytes:
        if length > len(data):
            raise ValueError("a storage longer than the file")
        lengths[key] = length
        return bytes(length)

    first = _TensorUnpickler(data[at:], len(data), measure)
    read(first, name)
    keys = Unpickler(data[at + first.file.tell() :])
    places = {}
    listed = read(keys, name)
    end = at + first.file.tell() + keys.file.tell()
    for key in listed:
        # Each storage follows the number of its elements.
        places[key] = end + 8
        end += 8 + lengths[key]
    unpickler = _TensorUnpickler(
        data[at:], len(data), lambda key, length: data[places[key] : places[key] + length]
    )
    return read(unpickler, name)


class _Storage(NamedTuple):
    """A flat array, and the type that PyTorch gives it."""

    kind: str
    values: np.ndarray


class _TensorUnpickler(Unpickler):
    """Reads the pickle of the content.

    Args:
      data: the pickle; what follows it is not read.
      num_bytes: of the whole file.
      find: function of a storage's key and length in bytes that returns its bytes.
    """

    def __init__(self, data: bytes, num_bytes: int, find: Callable[[str, int], bytes]):
        super().__init__(data, num_bytes)
        self._find = find

    def persistent_load(self, pid: Any) -> _Storage:
        what, kind, key, _, count, *view = pid
        if what != "storage" or getattr(kind, "func", None) is not _type or any(view):
            raise RefusedError("a persistent id that is no storage")
        dtype = np.dtype(_DTYPES[kind.args[0]])
        raw = self._find(key, count * dtype.itemsize)
        return _Storage(kind.args[0], np.frombuffer(raw, dtype, count))

    def load_build(self) -> None:
        if isinstance(self.stack[-2], dict):
            # Versions of modules, which PyTorch hangs on its dict.
            self.stack.pop()
        else:
            super().load_build()

    def tensor(self, storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> np.ndarray:
        if not isinstance(storage, _Storage) or len(shape) != len(strides):
            raise RefusedError("a tensor without a storage")
        if min((offset, *shape, *strides)) < 0:
            raise RefusedError("a tensor outside its storage")
        size = math.prod(shape)
        last = offset + sum((count - 1) * stride for count, stride in zip(shape, strides))
        if size and last >= len(storage.values):
            raise RefusedError("a tensor outside its storage")
        itemsize = storage.values.itemsize
        self.spend(1, size * itemsize)
        view = np.lib.stride_tricks.as_strided(
            storage.values[offset if size else 0 :],
            shape,
            [itemsize * stride for stride in strides],
            writeable=False,
        )
        return _converted(view, storage.kind)

    def parameter(self, values: Any, *_: Any) -> Any:
        return values


def _type(kind: str, *_: Any) -> None:
    raise RefusedError(f"a call of torch.{kind}Storage")


def _converted(view: np.ndarray, kind: str) -> np.ndarray:
    """Returns a copy in a type that NumPy has."""
    if kind == "BFloat16":
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view != 0 if kind == "Bool" else np.array(view)


_TensorUnpickler.constructors = {
    "torch._utils._rebuild_tensor_v2": _TensorUnpickler.tensor,
    "torch._utils._rebuild_parameter": _TensorUnpickler.parameter,
    **{f"torch.{kind}Storage": functools.partial(_type, kind) for kind in _DTYPES},
}
