"""MATLAB's .mat files of format 5 (versions 5 to 7), as far as ground truth needs them.

Files from strangers are hostile until checked, and SciPy's reader can be made to crash the whole
process by a few changed bytes; this one reads only what is there: cells, structures, text, numbers.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import invalid, require

_MAX_BYTES = 1 << 26
_MAX_DEPTH = 8
_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMBERS = range(6, 16)
_DTYPES = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"},
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8"},
}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


def read_mat(path: StrPath) -> dict[str, Any]:
    """Reads the variables of a .mat file.

    Args:
      path: a file of format 5, little- or big-endian, with or without compression.

    Returns:
      By name: a list for a cell array; a list of dicts for a structure array; a str for a row of
      text; a one-dimensional array for numbers. All are in MATLAB's order (columns first).

    Raises:
      InputError: no such file, of another format, too large, damaged, or it holds anything else.
    """
    path = Path(path)
    require(path.is_file(), "A .mat file must exist.", path=path)
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    hint = "Save it with -v7." if data.startswith(b"MATLAB 7.3") else ""
    try:
        return _variables(data)
    except Exception as fault:  # What damaged bytes do to a parser is open-ended.
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:150]
        raise invalid(
            "A .mat file must be whole, valid and of format 5.", hint=hint, path=path, reason=reason
        ) from None


def _variables(data: bytes) -> dict[str, Any]:
    order = {b"IM": "<", b"MI": ">"}[data[126:128]]
    if len(data) > _MAX_BYTES or int.from_bytes(data[124:126], _BYTEORDER[order]) != 0x0100:
        raise ValueError("too large, or not of format 5")
    variables, budget = {}, _MAX_BYTES
    reader = _Reader(data, order, _HEADER_BYTES)
    while reader.at < len(data):
        kind, body = reader.element()
        if kind == _COMPRESSED:
            inflater = zlib.decompressobj()
            body = inflater.decompress(body, budget)
            if inflater.unconsumed_tail:
                raise ValueError(f"over {_MAX_BYTES} bytes when inflated")
            budget -= len(body)
            kind, body = _Reader(body, order).element()
        if kind != _MATRIX:
            raise ValueError(f"element of type {kind}")
        name, value = _Reader(body, order).matrix()
        variables[name] = value
    return variables


_BYTEORDER: dict[str, Any] = {"<": "little", ">": "big"}


@dataclasses.dataclass
class _Reader:
    """Elements of a piece of a file, one after the other."""

    data: bytes
    order: str
    at: int = 0

    def element(self) -> tuple[int, bytes]:
        """Returns the next element's type and content, without its padding."""
        word, size = (int(part) for part in self._numbers(self.at, "u4", 2))
        start, step = self.at + 8, size if word == _COMPRESSED else -(-size // 8) * 8
        if word >> 16:
            # A small element keeps its size in the tag and its content in the next four bytes.
            word, size, start, step = word & 0xFFFF, word >> 16, self.at + 4, 0
            if size > 4:
                raise ValueError("a small element of over 4 bytes")
        if start + size > len(self.data):
            raise ValueError("the file ends early")
        self.at = min(len(self.data), self.at + 8 + step)
        return word, self.data[start : start + size]

    def matrix(self, depth: int = 0) -> tuple[str, Any]:
        """Returns the name and value of the array that the data are."""
        if not self.data:
            return "", np.zeros(0)
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deep")
        flags = int(self._array(*self.element())[0])
        shape = [int(side) for side in self._array(*self.element())]
        if min(shape, default=-1) < 0:
            raise ValueError("a negative size")
        name = self.element()[1].decode("latin-1")
        return name, self._value(flags & 0xFF, shape, depth)

    def _value(self, kind: int, shape: list[int], depth: int) -> Any:
        num = math.prod(shape)
        if kind == _CELL:
            return [self._next_matrix(depth) for _ in range(num)]
        if kind == _STRUCT:
            names = self._field_names()
            return [{name: self._next_matrix(depth) for name in names} for _ in range(num)]
        if kind == _CHAR:
            return self._text(num, shape)
        if kind not in _NUMBERS:
            raise ValueError(f"array of class {kind}")
        values = self._array(*self.element())
        if len(values) != num:
            raise ValueError(f"{len(values)} numbers for an array of {num}")
        return values

    def _next_matrix(self, depth: int) -> Any:
        kind, body = self.element()
        if kind != _MATRIX:
            raise ValueError(f"element of type {kind} where an array belongs")
        return _Reader(body, self.order).matrix(depth + 1)[1]

    def _field_names(self) -> list[str]:
        length = int(self._array(*self.element())[0])
        joined = self.element()[1]
        if length < 1 or not joined or len(joined) % length:
            raise ValueError("field names of no length")
        cut = (joined[at : at + length] for at in range(0, len(joined), length))
        return [name.split(b"\0")[0].decode("latin-1") for name in cut]

    def _text(self, num: int, shape: list[int]) -> str:
        kind, body = self.element()
        if num and shape[0] != 1:
            raise ValueError("text of several rows")
        if _TEXTS[kind].startswith("utf-") and kind != 16:
            return body.decode(_TEXTS[kind] + ("-le" if self.order == "<" else "-be"))
        return body.decode(_TEXTS[kind])

    def _array(self, kind: int, body: bytes) -> np.ndarray:
        values = np.frombuffer(body, np.dtype(_DTYPES[kind]).newbyteorder(self.order))
        return values.astype(values.dtype.newbyteorder("="))

    def _numbers(self, at: int, code: str, num: int) -> np.ndarray:
        return np.frombuffer(self.data, np.dtype(code).newbyteorder(self.order), num, at)
