"""Progress of long loops: a bar on a terminal or in a notebook, one line a minute elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from absl import logging
from tqdm.auto import tqdm

T = TypeVar("T")

LOG_INTERVAL_S = 60.0
_HIDDEN: ContextVar[bool] = ContextVar("hidden", default=False)


class Progress:
    """Counts `total` items: done, rate, remaining and failures.

    Use as a context manager and call `update`. On a terminal and in a notebook it draws a tqdm bar;
    elsewhere it logs one line every `LOG_INTERVAL_S` seconds and one at the end.
    """

    def __init__(self, total: int, unit: str, description: str, *, done: int = 0):
        """Starts counting.

        Args:
          total: number of items in all.
          unit: what an item is, e.g. "images".
          description: what is being done.
          done: items finished by an earlier run; they do not count into the rate.
        """
        self.total, self.unit, self.description = total, unit, description
        self.done = self._already = done
        self.failed = 0
        self._start = self._last_log = time.monotonic()
        self._bar: tqdm | None = None
        self._hidden = _HIDDEN.get()
        if not self._hidden and (sys.stderr.isatty() or _in_notebook()):
            self._bar = tqdm(total=total, initial=done, unit=f" {unit}", desc=description)

    def update(self, num: int = 1, *, failed: int = 0) -> None:
        """Counts `num` more items, of which `failed` failed."""
        self.done += num
        self.failed += failed
        if self._bar is not None:
            self._bar.update(num)
            if failed:
                self._bar.set_postfix(failed=self.failed)
        elif not self._hidden and time.monotonic() - self._last_log >= LOG_INTERVAL_S:
            self._last_log = time.monotonic()
            logging.info("%s", self.line())

    def line(self) -> str:
        """Returns one line: done/total, the rate of this run, remaining time, failures."""
        elapsed = time.monotonic() - self._start
        done = self.done - self._already
        rate = done / elapsed if elapsed > 0 else 0.0
        parts = [f"{self.description}: {self.done}/{self.total} {self.unit}"]
        if done:
            parts.append(f"{rate:.2f} {self.unit}/s")
        if self.done < self.total:
            left = f"{(self.total - self.done) / rate:.0f} s" if rate > 0 else "unknown time"
            parts.append(f"{left} left")
        return ", ".join([*parts, f"{self.failed} failed"])

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif not self._hidden:
            logging.info("%s", self.line())


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Shows nothing of what is counted meanwhile."""
    token = _HIDDEN.set(True)
    try:
        yield
    finally:
        _HIDDEN.reset(token)


def _in_notebook() -> bool:
    """Whether tqdm.auto chose the bar of notebooks."""
    return any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)


def track(items: Iterable[T], total: int, unit: str, description: str) -> Iterator[T]:
    """Yields `items` while showing progress."""
    with Progress(total, unit, description) as progress:
        for item in items:
            yield item
            progress.update()
