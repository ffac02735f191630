"""Times of contenders that were run in turn, as rows: medians, spread, speedups."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any


class Timings:
    """Wall and CPU seconds an image of each contender, round by round."""

    def __init__(self, contenders: Iterable[str], reference: str):
        """Starts without rounds.

        Args:
          contenders: names.
          reference: of the contender that speedups are over; may be none of them.
        """
        self._wall: dict[str, list[float]] = {name: [] for name in contenders}
        self._cpu: dict[str, list[float]] = {name: [] for name in self._wall}
        self._reference = reference

    def add(self, name: str, seconds: float, cpu_seconds: float) -> None:
        """Adds a contender's round: wall and CPU seconds an image."""
        self._wall[name].append(seconds)
        self._cpu[name].append(cpu_seconds)

    def row(self, name: str) -> dict[str, Any]:
        """Returns a contender's figures, JSON-able, of a round or more.

        Medians "ms_per_image", "cpu_ms_per_image" and "images_per_s", "ms_spread" from the fastest
        round to the slowest, "speedup" and "cpu_speedup" over the reference: medians of the rounds'
        ratios, None where it does not run.
        """
        wall, cpu = self._wall[name], self._cpu[name]
        return {
            "contender": name,
            "ms_per_image": 1e3 * statistics.median(wall),
            "ms_spread": 1e3 * (max(wall) - min(wall)),
            "cpu_ms_per_image": 1e3 * statistics.median(cpu),
            "images_per_s": 1 / statistics.median(wall),
            "speedup": self._ratio(self._wall, name),
            "cpu_speedup": self._ratio(self._cpu, name),
        }

    def _ratio(self, seconds: dict[str, list[float]], name: str) -> float | None:
        if self._reference not in seconds:
            return None
        pairs = zip(seconds[self._reference], seconds[name])
        return statistics.median(theirs / max(ours, 1e-9) for theirs, ours in pairs)
