"""How this package's inner loops are compiled: without the GIL, cached on disk where possible."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from absl import logging
from numba.core import event

_FLAGS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_REORDERED: Any = {"reassoc", "contract", "nsz"}


class _Notice(event.Listener):
    """Says once in a process why it pauses, if it compiles: what is on disk is not compiled."""

    def __init__(self) -> None:
        self._given = False

    def on_start(self, event: event.Event) -> None:
        """Called as Numba begins to compile a function of any package."""
        module = event.data["dispatcher"].py_func.__module__
        if not self._given and module.startswith(__package__):
            self._given = True
            logging.info(
                "Compiling the inner loops of matching for this processor: 10 s or more, once for "
                "an installation."
            )

    def on_end(self, event: event.Event) -> None:
        """Called when it is done."""


event.register("numba:compile", _Notice())


def sources_digest() -> int:
    """Returns a number that changes with any source file beside this one.

    Numba keys its disk cache by the file of the outermost function alone and would go on using
    machine code made from an older version of the files that function calls into. An entry point
    that closes over this number has it in its key.
    """
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return int.from_bytes(digest.digest()[:7], "little")


def inner(function: Callable[..., Any]) -> Any:
    """Compiles a function that only other compiled functions call."""
    return numba.njit(function, **_FLAGS)


def inner_sums(function: Callable[..., Any]) -> Any:
    """Compiles an inner function whose sums may be re-ordered, so that they run in SIMD lanes.

    The order is fixed by the machine code, so that a machine always gives the same result.
    """
    return numba.njit(function, fastmath=_REORDERED, **_FLAGS)


def inlined(function: Callable[..., Any]) -> Any:
    """Makes a function part of its compiled callers: quicker to compile where it has but one."""
    return numba.njit(function, inline="always", **_FLAGS)


def entry(function: Callable[..., Any]) -> Any:
    """Compiles a function that Python calls; cached on disk if any cache folder can be written."""
    return _cached(function, _FLAGS)


def entry_sums(function: Callable[..., Any]) -> Any:
    """Compiles an entry whose sums may be re-ordered, as those of `inner_sums`."""
    return _cached(function, {**_FLAGS, "fastmath": _REORDERED})


def _cached(function: Callable[..., Any], flags: dict[str, Any]) -> Any:
    try:
        return numba.njit(function, cache=True, **flags)
    except RuntimeError:  # Numba found no folder to write to: compile anew in each process.
        return numba.njit(function, **flags)
