"""Measurements: on which machine, how much memory at the peak, and times of contenders as rows."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

_CPU_INFO = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_PACKAGES = (
    *("tensorflow", "tensorflow-cpu", "keras", "openvino"),
    *("numpy", "numba", "scipy", "faiss-cpu"),
    *("opencv-python-headless", "scikit-image", "pydegensac"),
)


def describe() -> dict[str, Any]:
    """Returns JSON-able facts: "processor", "num_cpus", "load_average", "accelerators", "versions".

    Accelerators are TensorFlow's, and known where it is loaded: elsewhere none is measured.
    """
    installed = {
        each.metadata["Name"]: each.version
        for package in _PACKAGES
        for each in importlib.metadata.distributions(name=package)
    }
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "num_cpus": cpus,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
        "accelerators": _accelerators(),
        "versions": {"python": platform.python_version(), **installed},
    }


def run_alone(function: Callable[..., T], *arguments: Any) -> T:
    """Returns what a function returns in a new process, whose peak of memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def recall(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the mean share of the rows of `expected` [Q, K] that are in those of `found`."""
    shares = [np.isin(true, got).mean() for true, got in zip(expected, found)]
    return float(np.mean(shares)) if shares else float("nan")


def reset_peak_memory() -> None:
    """Makes `peak_memory_mb` count from now, where the system can (Linux)."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return


def peak_memory_mb() -> float | None:
    """Returns the most resident memory since `reset_peak_memory`, or None where unknown."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(one.split()[1]) / 1024 for one in lines if one.startswith("VmHWM:")), None)


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


def _accelerators() -> list[str]:
    tf = sys.modules.get("tensorflow")
    if tf is None:
        return []
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return [each.get("device_name", "GPU") for each in details]


def _processor() -> str:
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
