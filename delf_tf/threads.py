"""Thread pools that matching, verification and search share; they survive a fork."""

from __future__ import annotations

import os
import threading
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


class _OneBlasThread:
    """Keeps matrix products to the threads that ask for them, in the whole process.

    BLAS's own threads wait for work by turning, and take the cores from a pool that calls BLAS.
    Callers may overlap; the last one gives BLAS back its threads.
    """

    def __init__(self) -> None:
        self._lock, self._num_callers = threading.Lock(), 0
        self._limit: Any = None

    def __enter__(self) -> None:
        import threadpoolctl  # noqa: PLC0415 - slow to import

        with self._lock:
            if not self._num_callers:
                self._limit = threadpoolctl.threadpool_limits(1, user_api="blas")
            self._num_callers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_callers -= 1
            if not self._num_callers:
                self._limit.restore_original_limits()


one_blas_thread = _OneBlasThread()


def _pool(num_threads: int) -> ThreadPoolExecutor:
    # Keyed by process, as a forked child inherits the executor but not its threads.
    key = (os.getpid(), num_threads)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(num_threads, thread_name_prefix="delf_tf")
    return _pools[key]
