"""One wording for every error about input: what must hold, what was received, what to do."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

_MAX_SHOWN = 200
# Controls, line separators, marks that turn the direction of writing, halves of surrogate pairs:
# a file's name can hold them all, and a terminal obeys them.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class InputError(ValueError):
    """Input that breaks a stated requirement: a file, an array, an argument."""


class UsageError(InputError):
    """A command line or a config that cannot be understood; tools exit with 2."""


def invalid(
    must: str, *, hint: str = "", error: type[InputError] = InputError, **received: Any
) -> InputError:
    """Returns an `error` in the package's wording, to be raised.

    Args:
      must: the requirement, a sentence with its full stop.
      hint: what to do about it, or empty.
      error: the exception's class.
      **received: the offending values by name; arrays are shown by shape and dtype.
    """
    shown = ", ".join(f"{name}={_show(value)}" for name, value in received.items())
    parts = [must, f"Received: {shown}." if shown else "", hint]
    return error(" ".join(part for part in parts if part))


def require(
    condition: bool,
    must: str,
    *,
    hint: str = "",
    error: type[InputError] = InputError,
    **received: Any,
) -> None:
    """Raises `invalid(...)` unless `condition` holds."""
    if not condition:
        raise invalid(must, hint=hint, error=error, **received)


def require_choice(
    name: str, value: Any, choices: Iterable[Any], error: type[InputError] = InputError
) -> None:
    """Requires `value` to be one of `choices`; names the nearest one otherwise."""
    choices = list(choices)
    if value not in choices:
        raise invalid(
            f"{name} must be one of {', '.join(map(str, choices))}.",
            hint=did_you_mean(value, choices),
            error=error,
            **{name: value},
        )


def require_absent(
    name: str,
    path: str | os.PathLike[str],
    overwrite: bool,
    hint: str = "--overwrite replaces it.",
) -> None:
    """Requires that nothing is at `path`, which `name` stands for, unless it may be replaced."""
    absent = overwrite or not Path(path).exists()
    require(absent, f"{name} must not exist yet.", hint=hint, path=path)


def printable(text: str, keep: str = "") -> str:
    r"""Returns `text` with what a terminal would obey escaped (\n, \x1b), save for `keep`."""

    def escaped(found: re.Match[str]) -> str:
        one = found.group()
        return one if one in keep else repr(one)[1:-1]

    return _UNPRINTABLE.sub(escaped, text)


def did_you_mean(value: Any, choices: Iterable[Any]) -> str:
    """Returns "Did you mean 'x'?" for the valid name nearest to `value`, or an empty string."""
    near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
    return f"Did you mean '{near[0]}'?" if near else ""


def as_array(
    name: str, value: Any, shape: tuple[str | int, ...], dtype: Any = np.float32
) -> np.ndarray:
    """Returns `value` as an array of `dtype`, its shape checked and its floats finite.

    Args:
      name: how errors call it.
      value: array-like.
      shape: one entry an axis: an int is a required length, a letter is free.
      dtype: of the result; integers are never made from fractions.

    Raises:
      InputError: other number of axes, other length, not numeric, NaN or infinite, too large.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError(array.dtype)
    except (TypeError, ValueError):
        raise invalid(
            f"{name} must be a numeric array of shape {_spell(shape)}.", **{name: value}
        ) from None
    fault = _fault(array, shape, np.dtype(dtype))
    if fault:
        shown: dict[str, Any] = {name: array}
        raise invalid(f"{name} must {fault}.", **shown)
    return np.ascontiguousarray(array, dtype=dtype)


def _fault(array: np.ndarray, shape: tuple[str | int, ...], dtype: np.dtype) -> str:
    """Returns what an array must do and does not; words are made for errors alone."""
    fits = array.ndim == len(shape) and all(
        not isinstance(want, int) or want == got for want, got in zip(shape, array.shape)
    )
    if not fits:
        return f"have shape {_spell(shape)}"
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            return "be finite"
        if dtype.kind in "iu" and (array != np.round(array)).any():
            return "hold whole numbers"
    return "" if _holds(array, dtype) else f"fit {dtype}"


def _holds(array: np.ndarray, dtype: np.dtype) -> bool:
    """Whether a conversion of finite (for integers, whole) numbers to `dtype` overflows none."""
    if not array.size or dtype.kind not in "iuf" or array.dtype == dtype:
        return True
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    low, high = array.min().item(), array.max().item()
    if dtype.kind in "iu":
        low, high = int(low), int(high)
    return type(low)(limits.min) <= low and high <= type(high)(limits.max)


def _spell(shape: tuple[str | int, ...]) -> str:
    return "[" + ", ".join(str(axis) for axis in shape) + "]"


def _show(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array(shape={list(value.shape)}, dtype={value.dtype})"
    text = repr(str(value)) if hasattr(value, "__fspath__") else repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"
