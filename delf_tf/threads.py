"""Thread pools that matching, verification and search share; they survive a fork."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from delf_tf.checks import require

T = TypeVar("T")

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def default_num_threads() -> int:
    """Returns the number of processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Not every platform has it.
        return os.cpu_count() or 1


def check_num_threads(num_threads: int | None) -> int:
    """Returns `num_threads`, or the default for None."""
    if num_threads is None:
        return default_num_threads()
    require(
        isinstance(num_threads, int) and num_threads >= 1,
        "num_threads must be a positive whole number, or None for all processors.",
        num_threads=num_threads,
    )
    return num_threads


def run_all(function: Callable[[Any], T], items: Iterable[Any], num_threads: int) -> list[T]:
    """Returns `function` of each item, in order; items are made while others are worked on."""
    if num_threads == 1 or (isinstance(items, Sequence) and len(items) <= 1):
        return [function(item) for item in items]
    return list(_pool(num_threads).map(function, items))


def run_parts(function: Callable[[Any], T], parts: Sequence[Any]) -> list[T]:
    """Returns `function` of each part, a thread a part; the caller's own thread does the first."""
    if len(parts) == 1:
        return [function(parts[0])]
    others = [_pool(len(parts) - 1).submit(function, part) for part in parts[1:]]
    return [function(parts[0]), *(other.result() for other in others)]


def _pool(num_threads: int) -> ThreadPoolExecutor:
    # Keyed by process, as a forked child inherits the executor but not its threads.
    key = (os.getpid(), num_threads)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(num_threads, thread_name_prefix="delf_tf")
    return _pools[key]
