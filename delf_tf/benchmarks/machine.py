"""What a measurement ran on: processor, accelerator, versions, load, memory at its peak."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_CPU_INFO = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy")


def describe() -> dict[str, Any]:
    """Returns JSON-able facts: "processor", "num_cpus", "load_average", "accelerators" and more."""
    import tensorflow as tf  # noqa: PLC0415 - only what measures TensorFlow asks

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
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
        "accelerators": [each.get("device_name", "GPU") for each in details],
        "versions": {"python": platform.python_version(), **installed},
    }


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


def _processor() -> str:
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
