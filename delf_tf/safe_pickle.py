"""Pickles read as data: containers, numbers, strings and NumPy arrays, and nothing else.

The standard unpickler calls whatever a file names. Here no name is ever looked up: the few
callables that data needs (NumPy's constructors and their like) are recognised by name and done by
hand. The opcodes are those of data alone, and what they do is counted: a small file can neither
run for long nor grow large, whether by sizes that are not there, by sharing, or by nesting.
"""

from __future__ import annotations

import functools
import io
import pickle
import pickletools
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import invalid, require

MAX_FILE_BYTES = 1 << 32
# Opcodes, and values of what is returned; SfM-120k's ground truth takes about two million.
_MAX_STEPS = 1 << 22
# What is returned, every value written out wherever it is used, against the file's own bytes.
_MAX_GROWTH, _MIN_BYTES = 8, 1 << 16
_MAX_DEPTH = 16
# Python refuses to print the longest, even in an error.
_MAX_INT_BITS = 128
_DTYPE = re.compile(r"[<>|=]?[biufcSU]?\d{0,4}")
# Those of data; classes, extensions and sets are not among them. Persistent ids mean nothing here.
_OPCODES = """
    PROTO FRAME STOP MARK POP NONE NEWTRUE NEWFALSE GLOBAL STACK_GLOBAL REDUCE BUILD
    EMPTY_LIST EMPTY_TUPLE EMPTY_DICT LIST TUPLE DICT TUPLE1 TUPLE2 TUPLE3
    APPEND APPENDS SETITEM SETITEMS PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
    BININT BININT1 BININT2 LONG1 LONG4 INT LONG FLOAT BINFLOAT
    BINUNICODE BINUNICODE8 SHORT_BINUNICODE UNICODE STRING BINSTRING SHORT_BINSTRING
    BINBYTES BINBYTES8 SHORT_BINBYTES BYTEARRAY8 BINPERSID
""".split()  # noqa: SIM905 - a list would be one name a line


class RefusedError(Exception):
    """Something that data does not need."""


def load(path: StrPath, *, max_bytes: int = MAX_FILE_BYTES) -> Any:
    """Reads a pickle file of any protocol, from Python 2 or 3, without running anything.

    Args:
      path: the file.
      max_bytes: largest file that is read.

    Returns:
      None, booleans, numbers, str, bytes, arrays of numbers or text, and lists, tuples and dicts
      of these, nested at most 16 deep. Python 2's str become str (Latin-1).

    Raises:
      InputError: no such file, too large, damaged, or it holds anything else or far more than its
        bytes.
    """
    path = Path(path)
    require(path.is_file(), "A pickle file must exist.", path=path)
    num_bytes = path.stat().st_size
    require(
        num_bytes <= max_bytes,
        f"A pickle file must have at most {max_bytes} bytes.",
        path=path,
        num_bytes=num_bytes,
    )
    return loads(path.read_bytes(), name=str(path))


def loads(data: bytes, *, name: str = "pickle") -> Any:
    """Reads a pickle from memory; see `load`.

    Args:
      data: the pickle.
      name: how errors call it.
    """
    return read(_Unpickler(data), name)


def read(unpickler: _Unpickler, name: str) -> Any:
    """Returns what an unpickler reads; see `load` for errors, `name` is how they call the file."""
    try:
        return unpickler.load()
    except RefusedError as refused:
        raise invalid(
            "A pickle must hold only containers, numbers, strings and NumPy arrays.",
            hint="Nothing in it was run.",
            path=name,
            refused=str(refused)[:150],
        ) from None
    except Exception as fault:  # What damaged bytes do to parsers is open-ended.
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:150]
        raise invalid("A pickle must be whole and valid.", path=name, reason=reason) from None


class _Dtype:
    """What `numpy.dtype(...)` stands for until its byte order is known."""

    def __init__(self, code: Any):
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise RefusedError(f"dtype {code!r:.50}")
        self.value = np.dtype(code)


class _Array:
    """What `numpy.ndarray` stands for until its content is known."""

    value: np.ndarray | None = None


class _Unpickler(pickle._Unpickler):
    """Python's own stack machine, in its form that can be counted and restricted.

    Args:
      data: the pickle; what follows it is not read.
      num_bytes: what the result is measured against; None: the bytes of `data`.
    """

    constructors: Mapping[str, Callable[..., Any]] = {}

    def __init__(self, data: bytes, num_bytes: int | None = None):
        self.file = io.BytesIO(data)
        super().__init__(self.file, encoding="latin-1")
        self._steps = _MAX_STEPS
        self._bytes = _MAX_GROWTH * (len(data) if num_bytes is None else num_bytes) + _MIN_BYTES

    def load(self) -> Any:
        return self._finished(super().load(), 0)

    def find_class(self, module: str, name: str) -> Any:
        known = {**_CONSTRUCTORS, **self.constructors}
        constructor = known.get(f"{module}.{name}")
        if constructor is None:
            raise RefusedError(f"{module}.{name}")
        return functools.partial(constructor, self)

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError("a persistent id")

    def spend(self, steps: int, num_bytes: int = 0) -> None:
        self._steps -= steps
        self._bytes -= num_bytes
        if self._steps < 0 or self._bytes < 0:
            raise RefusedError("far more values than the file has bytes for")

    def array(self, raw: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
        if not isinstance(dtype, _Dtype):
            raise RefusedError("an array of objects")
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        if not isinstance(raw, (bytes, bytearray)):
            raise RefusedError("an array without bytes")
        self.spend(1, len(raw))
        # The bytes are here, and reshape checks their number: nothing large is allocated.
        empty = not raw or not dtype.value.itemsize
        array = np.empty(0, dtype.value) if empty else np.frombuffer(raw, dtype.value)
        array = array.reshape(shape, order=order)
        self.spend(sum(array.shape) if empty else 0)
        array = array.astype(dtype.value.newbyteorder("="), order="C")
        # Bytes that are no letter or truth value would break NumPy and Python much later.
        if array.dtype.kind == "U" and array.reshape(-1).view(np.uint32).max(initial=0) > 0x10FFFF:
            raise ValueError("no Unicode")
        return array.view(np.uint8) != 0 if array.dtype.kind == "b" else array

    def scalar(self, dtype: Any, raw: Any) -> Any:
        return self.array(raw, dtype, (1,))[0]

    def encode(self, text: str, encoding: str = "latin1") -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise RefusedError(f"encoding {encoding!r:.50}")
        self.spend(1, len(text))
        return text.encode("latin-1")

    def evaluated(self, *arguments: Any) -> Any:
        """Paddle wraps a tensor as eval("data", {"data": array}): the array, without eval."""
        names = arguments[-1] if len(arguments) == 2 and arguments[0] == "data" else None
        if not isinstance(names, dict) or len(names) != 1 or "data" not in names:
            raise RefusedError("builtins.eval")
        return names["data"]

    def ordered_dict(self, items: Sequence[Any] = ()) -> dict[Any, Any]:
        return _fill({}, [part for key, value in self.tuple(items) for part in (key, value)])

    def tuple(self, items: Any) -> Any:
        if not isinstance(items, (list, tuple)):
            raise RefusedError("a tuple of something other than a list")
        self.spend(len(items))
        return tuple(items)

    def ndarray(self, *_: Any) -> None:
        raise RefusedError("numpy.ndarray, which belongs into a call of _reconstruct alone")

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(_fill({}, items))

    def load_setitem(self) -> None:
        items = [self.stack.pop(), self.stack.pop()]
        _fill(self.stack[-1], items[::-1])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _fill(self.stack[-1], items)

    def load_reduce(self) -> None:
        self.spend(len(self.stack[-1]))
        super().load_reduce()

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Array):
            _, shape, dtype, is_fortran, raw = state
            target.value = self.array(raw, dtype, shape, "F" if is_fortran else "C")
        elif isinstance(target, _Dtype):
            if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
                raise RefusedError("a structured dtype")
            target.value = target.value.newbyteorder(state[1])
        else:
            raise RefusedError("state for something other than an array")

    def load_bytearray8(self) -> None:
        # The library's own allocates what the file asks for before it looks whether it is there.
        self.append(bytearray(self.read(struct.unpack("<Q", self.read(8))[0])))

    def _finished(self, value: Any, depth: int) -> Any:
        """Returns `value` without stand-ins, all of it counted as often as it is used."""
        value = value.value if isinstance(value, _Array) else value
        if isinstance(value, (list, tuple, dict)):
            if depth >= _MAX_DEPTH:
                raise RefusedError(f"containers nested over {_MAX_DEPTH} deep")
            self.spend(1, 1)
            if isinstance(value, dict):
                return {self._leaf(k): self._finished(v, depth + 1) for k, v in value.items()}
            return type(value)([self._finished(part, depth + 1) for part in value])
        return self._leaf(value)

    def _leaf(self, value: Any) -> Any:
        if isinstance(value, (np.ndarray, np.generic)):
            num_bytes = value.nbytes
        elif isinstance(value, (str, bytes, bytearray)):
            num_bytes = len(value)
        elif value is None or isinstance(value, (int, float)):
            num_bytes = 1
            if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
                raise RefusedError(f"an integer of over {_MAX_INT_BITS} bits")
        else:
            raise RefusedError("something unfinished")
        self.spend(1, num_bytes)
        return value


def _fill(target: Any, items: list[Any]) -> Any:
    if not isinstance(target, dict) or len(items) % 2:
        raise RefusedError("items for something other than a dict")
    for key, value in zip(items[::2], items[1::2]):
        # Numbers can be chosen to collide, which makes a dict quadratic.
        if not isinstance(key, (str, bytes)) and not (isinstance(key, int) and abs(key) < 1 << 32):
            raise RefusedError(f"a key of type {type(key).__name__}")
        target[key] = value
    return target


def _counted(method: str) -> Callable[[_Unpickler], None]:
    def run(unpickler: _Unpickler) -> None:
        unpickler.spend(1)
        getattr(unpickler, method)()

    return run


def _refused(opcode: str) -> Callable[[_Unpickler], None]:
    def run(unpickler: _Unpickler) -> None:
        raise RefusedError(f"opcode {opcode}")

    return run


_Unpickler.dispatch = {
    ord(opcode.code): _counted(pickle._Unpickler.dispatch[ord(opcode.code)].__name__)
    if opcode.name in _OPCODES
    else _refused(opcode.name)
    for opcode in pickletools.opcodes
}

_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _Unpickler.ndarray,
    "numpy.dtype": lambda _, code, *rest: _Dtype(code),
    "_codecs.encode": _Unpickler.encode,
    "collections.OrderedDict": _Unpickler.ordered_dict,
}
for _module in ("numpy.core", "numpy._core"):
    _CONSTRUCTORS[f"{_module}.multiarray._reconstruct"] = lambda *_: _Array()
    _CONSTRUCTORS[f"{_module}.multiarray.scalar"] = _Unpickler.scalar
    _CONSTRUCTORS[f"{_module}.numeric._frombuffer"] = _Unpickler.array
for _module in ("builtins", "__builtin__"):
    _CONSTRUCTORS[f"{_module}.tuple"] = _Unpickler.tuple
    _CONSTRUCTORS[f"{_module}.bytes"] = lambda _: b""
    _CONSTRUCTORS[f"{_module}.eval"] = _Unpickler.evaluated

# For formats that are built on pickles: a subclass does their callables by hand.
Unpickler = _Unpickler
