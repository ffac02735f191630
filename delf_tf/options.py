"""Parses NAME=VALUE arguments of a function by its annotations."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import math
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from delf_tf.checks import UsageError, did_you_mean

# What a value of JSON may be by itself -> the words for it.
_PLAIN = {
    int: "a whole number of 0 or more",
    float: "a number of 0 or more",
    bool: "true or false",
    str: "text",
    type(None): "null",
}


def parse_options(run: Callable[..., Any], items: Sequence[str]) -> dict[str, Any]:
    """Returns keyword arguments of `run` from "name=value" items.

    Raises:
      UsageError: not of that form, a name that `run` does not take, a value of another type, or
        one that it needs is not there.
    """
    parameters = inspect.signature(run).parameters
    hints = typing.get_type_hints(run)
    known = [name for name in parameters if _words(hints[name]) not in ("", "null")]
    required = [name for name in known if parameters[name].default is inspect.Parameter.empty]
    options = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(
                f"--set takes {', '.join(known)} as NAME=VALUE. {hint} Received: {item}."
            )
        options[name] = _parsed(name, value, hints[name])
    missing = [name for name in required if name not in options]
    if missing:
        raise UsageError(f"--set={missing[0]}=VALUE must be given. Received: {' '.join(items)!r}.")
    return options


def _parsed(name: str, text: str, wanted: Any) -> Any:
    """Returns what a flag's text, JSON or plain words, means as a value of the wanted type."""
    values = [text]
    with contextlib.suppress(ValueError, RecursionError):
        values.insert(0, json.loads(text))
    for value in values:
        with contextlib.suppress(TypeError):
            return _typed(value, wanted)
    raise UsageError(f"--set={name} must be {_words(wanted)}. Received: {name}={text}.")


def _typed(value: Any, wanted: Any) -> Any:
    """Returns a value of JSON as one of a type; objects become dataclasses.

    Raises:
      TypeError: it is none.
    """
    arguments = typing.get_args(wanted)
    if _is_union(wanted):
        fitting = [one for one in arguments if _fits(value, one)]
        return _typed(value, (fitting or arguments)[0])
    if typing.get_origin(wanted) is Sequence and isinstance(value, list):
        return tuple(_typed(one, arguments[0]) for one in value)
    if dataclasses.is_dataclass(wanted) and isinstance(value, dict):
        hints = typing.get_type_hints(wanted)
        strange = set(value) - set(hints)
        if not strange:
            return wanted(**{name: _typed(one, hints[name]) for name, one in value.items()})
    if wanted is float and type(value) is int:
        return float(value)
    plain = wanted in _PLAIN and type(value) is wanted
    if not plain or (type(value) in (int, float) and not 0 <= value < math.inf):
        raise TypeError(value)
    return value


def _fits(value: Any, wanted: Any) -> bool:
    try:
        _typed(value, wanted)
    except TypeError:
        return False
    return True


def _words(wanted: Any) -> str:
    """Returns a type in words; an empty string for what a command line cannot give."""
    arguments = typing.get_args(wanted)
    if _is_union(wanted):
        return " or ".join(filter(None, map(_words, arguments)))
    if typing.get_origin(wanted) is Sequence:
        return f"a list of: {_words(arguments[0])}"
    if dataclasses.is_dataclass(wanted):
        fields = typing.get_type_hints(wanted).items()
        return "an object with " + ", ".join(f"{name} ({_words(one)})" for name, one in fields)
    return _PLAIN.get(wanted, "")


def _is_union(wanted: Any) -> bool:
    return typing.get_origin(wanted) in (typing.Union, types.UnionType)
