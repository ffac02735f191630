"""Pickles read as data: containers, numbers, strings and NumPy arrays, and nothing else.

The standard unpickler calls whatever a file names. Here no name is ever looked up: the opcodes are
interpreted by a table that has no way to import or call anything, and the few callables that data
needs (NumPy's constructors and their like) are recognised by name and done by hand, with their
sizes checked against the bytes that are really there.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Union

import numpy as np

from delf_tf.checks import invalid, require

StrPath = Union[str, "os.PathLike[str]"]

MAX_FILE_BYTES = 1 << 32
_MAX_DEPTH = 16
_MARK = object()
_DTYPE = re.compile(r"[<>|=]?[biufcSU?]\d{0,4}")


class _RefusedError(Exception):
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
      InputError: no such file, too large, damaged, or it holds anything else.
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
    try:
        value = _Machine().run(data)
        _check_depth(value)
    except _RefusedError as refused:
        raise invalid(
            "A pickle must hold only containers, numbers, strings and NumPy arrays.",
            hint="Nothing in it was run.",
            path=name,
            refused=str(refused)[:150],
        ) from None
    except Exception as fault:  # What damaged bytes do to parsers is open-ended.
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:150]
        raise invalid("A pickle must be whole and valid.", path=name, reason=reason) from None
    return value


class _Name:
    """A callable that the file names; never resolved."""

    def __init__(self, module: str, name: str):
        self.full = f"{module}.{name}"


class _Dtype:
    """What `numpy.dtype(...)` stands for until its byte order is known."""

    def __init__(self, code: Any):
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise _RefusedError(f"dtype {code!r:.50}")
        self.value = np.dtype(code)

    def build(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise _RefusedError("a structured dtype")
        self.value = self.value.newbyteorder(order)


class _Array:
    """What `numpy.ndarray` stands for until its content is known."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def build(self, state: Any) -> None:
        _, shape, dtype, is_fortran, raw = state
        self.value = _array(raw, dtype, shape, "F" if is_fortran else "C")


def _array(raw: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise _RefusedError("an array of objects")
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(raw, (bytes, bytearray)):
        raise _RefusedError("an array without bytes")
    # The bytes are here, and reshape checks their number: nothing large is allocated.
    empty = not raw or not dtype.value.itemsize
    array = np.empty(0, dtype.value) if empty else np.frombuffer(raw, dtype.value)
    array = array.reshape(shape, order=order).astype(dtype.value.newbyteorder("="), order="C")
    # Bytes that are no letter or truth value would break NumPy and Python much later.
    if (
        array.dtype.kind == "U"
        and array.size
        and array.reshape(-1).view(np.uint32).max() > 0x10FFFF
    ):
        raise ValueError("no Unicode")
    return array.view(np.uint8) != 0 if array.dtype.kind == "b" else array


def _scalar(dtype: Any, raw: Any) -> Any:
    return _array(raw, dtype, (1,))[0]


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"encoding {encoding!r:.50}")
    return text.encode("latin-1")


def _evaluated(*arguments: Any) -> Any:
    """Paddle wraps a tensor as eval("data", {"data": array}): the array, without eval."""
    names = arguments[-1] if len(arguments) == 2 and arguments[0] == "data" else None
    if not isinstance(names, dict) or set(names) != {"data"}:
        raise _RefusedError("builtins.eval")
    return names["data"]


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    return _dict_of([part for item in items for part in item])


def _tuple(items: Any) -> tuple[Any, ...]:
    if not isinstance(items, (list, tuple)):
        raise _RefusedError("a tuple of something other than a list")
    return tuple(items)


_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": lambda code, *_: _Dtype(code),
    "_codecs.encode": _encode,
    "collections.OrderedDict": _ordered_dict,
}
for _module in ("numpy.core", "numpy._core"):
    _CONSTRUCTORS[f"{_module}.multiarray._reconstruct"] = lambda *_: _Array()
    _CONSTRUCTORS[f"{_module}.multiarray.scalar"] = _scalar
    _CONSTRUCTORS[f"{_module}.numeric._frombuffer"] = _array
for _module in ("builtins", "__builtin__"):
    _CONSTRUCTORS[f"{_module}.tuple"] = _tuple
    _CONSTRUCTORS[f"{_module}.bytes"] = lambda: b""
    _CONSTRUCTORS[f"{_module}.eval"] = _evaluated


class _Machine:
    """The stack machine of the pickle format, without its dangerous instructions."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            if opcode.name == "STOP":
                return _plain(self.stack.pop())
            step = _STEPS.get(opcode.name)
            if step is None:
                raise _RefusedError(f"opcode {opcode.name}")
            step(self, argument)
        raise _RefusedError("no end")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise _RefusedError("a missing mark")
        items = [_plain(item) for item in self.stack[at + 1 :]]
        del self.stack[at:]
        return items

    def last(self, num: int) -> list[Any]:
        if len(self.stack) < num:
            raise _RefusedError("an empty stack")
        items = [_plain(item) for item in self.stack[len(self.stack) - num :]]
        del self.stack[len(self.stack) - num :]
        return items

    def call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        constructor = _CONSTRUCTORS.get(name.full) if isinstance(name, _Name) else None
        if constructor is None:
            raise _RefusedError(name.full if isinstance(name, _Name) else "a call of data")
        self.push(constructor(*arguments))

    def build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (_Dtype, _Array)):
            raise _RefusedError("state for something other than an array")
        self.stack[-1].build(state)

    def fill(self, put_into: Callable[[Any, list[Any]], None], items: list[Any]) -> None:
        put_into(self.stack[-1], items)

    def name(self) -> None:
        module, name = self.last(2)
        self.push(_Name(module, name))

    def put(self, at: int) -> None:
        self.memo[at] = self.stack[-1]


def _plain(value: Any) -> Any:
    """Returns a finished array for its stand-in; other stand-ins stay, to be arguments."""
    return value.value if isinstance(value, _Array) and value.value is not None else value


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise _RefusedError("items for something other than a list")
    target.extend(items)


def _set_items(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict) or len(items) % 2:
        raise _RefusedError("items for something other than a dict")
    for key, value in zip(items[::2], items[1::2]):
        # Numbers can be chosen to collide, which makes a dict quadratic.
        if not isinstance(key, (str, bytes)) and not (isinstance(key, int) and abs(key) < 1 << 32):
            raise _RefusedError(f"a key of type {type(key).__name__}")
        target[key] = value


def _pair(text: str) -> _Name:
    module, _, name = text.partition(" ")
    return _Name(module, name)


def _dict_of(items: list[Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    _set_items(made, items)
    return made


_Step = Callable[[_Machine, Any], None]

_STEPS: dict[str, _Step] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.push(_MARK),
    "POP": lambda machine, _: machine.last(1) and None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "DICT": lambda machine, _: machine.push(_dict_of(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.last(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.last(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.last(3))),
    "APPEND": lambda machine, _: machine.fill(_extend, machine.last(1)),
    "APPENDS": lambda machine, _: machine.fill(_extend, machine.since_mark()),
    "SETITEM": lambda machine, _: machine.fill(_set_items, machine.last(2)),
    "SETITEMS": lambda machine, _: machine.fill(_set_items, machine.since_mark()),
    "GLOBAL": lambda machine, text: machine.push(_pair(text)),
    "STACK_GLOBAL": lambda machine, _: machine.name(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
}
for _opcode in ("PUT", "BINPUT", "LONG_BINPUT"):
    _STEPS[_opcode] = lambda machine, at: machine.put(at)
for _opcode in ("GET", "BINGET", "LONG_BINGET"):
    _STEPS[_opcode] = lambda machine, at: machine.push(_plain(machine.memo[at]))
for _opcode in (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "FLOAT", "BINFLOAT"),
    *("BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE", "UNICODE"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BYTEARRAY8"),
):
    _STEPS[_opcode] = _Machine.push


def _check_depth(value: Any) -> None:
    """Refuses what nests too deep, cycles included, and stand-ins that were never finished."""
    deepest: dict[int, int] = {}
    to_visit = [(value, 0)]
    while to_visit:
        item, depth = to_visit.pop()
        if isinstance(item, (_Name, _Dtype, _Array)) or item is _MARK:
            raise _RefusedError(getattr(item, "full", "an unfinished array"))
        if not isinstance(item, (list, tuple, dict)) or deepest.get(id(item), -1) >= depth:
            continue
        if depth >= _MAX_DEPTH:
            raise _RefusedError(f"containers nested over {_MAX_DEPTH} deep")
        deepest[id(item)] = depth
        parts = item.values() if isinstance(item, dict) else item
        to_visit.extend((part, depth + 1) for part in parts)
