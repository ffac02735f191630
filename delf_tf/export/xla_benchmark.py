"""How fast an exported XLA program runs on this machine; no TensorFlow is needed."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from delf_tf.checks import require
from delf_tf.export.xla_program import XlaProgram, load_program

_MIB = float(1 << 20)


def run(directory: str, rounds: int = 10) -> dict[str, Any]:
    """Times a program on noise, warm, its two ways interleaved.

    Args:
      directory: what `delf_tf export --format=hlo` wrote.
      rounds: timed calls of each way; the median counts.

    Returns:
      JSON-able: "rows", one a way, with "ms_per_batch" and "images_per_s": "host" is from pixels to
      features in the host's memory, "device" the program alone; what ran ("model", "precision",
      "batch_size", "image_size", "image_scales", "fingerprint"), where ("device", "platform",
      "processor_cores", "versions"), "load_s" to read and compile it, "program_mib" that the
      compiler planned of the device's memory, "peak_mib" that the device has seen (None where the
      client does not tell).

    Raises:
      InputError: no rounds, or see load_program.
    """
    require(rounds >= 1, "rounds must be 1 or more.", rounds=rounds)
    start = time.perf_counter()
    program = load_program(directory)
    load_s = time.perf_counter() - start
    size = (program.batch_size, program.image_height, program.image_width, 3)
    images = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    placed = program.put(images)
    ways: dict[str, Callable[[], Any]] = {
        "host": lambda: program(images),
        "device": lambda: _wait(program.execute(placed)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for name in [*ways, *list(ways) * rounds]:
        start = time.perf_counter()
        ways[name]()
        seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, (_, *warm) in seconds.items():
        median = statistics.median(warm)
        rate = program.batch_size / median
        rows.append({"way": name, "ms_per_batch": 1e3 * median, "images_per_s": rate})
    return {"rows": rows, "rounds": rounds, "load_s": load_s, **_facts(program)}


def _wait(results: dict[str, Any]) -> None:
    for values in results.values():
        values.block_until_ready()


def _facts(program: XlaProgram) -> dict[str, Any]:
    import jax  # noqa: PLC0415 - an extra

    said, device, planned = program.metadata, program.device, program.memory_bytes
    known = device.memory_stats() or {}
    peak = known.get("peak_bytes_in_use")
    return {
        "model": said["model"].get("name"),
        "precision": said["precision"],
        "batch_size": program.batch_size,
        "image_size": [program.image_height, program.image_width],
        "image_scales": said["image_scales"],
        "fingerprint": said["fingerprint"],
        "device": device.device_kind,
        "platform": device.platform,
        "processor_cores": os.cpu_count(),
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "exported_by": said["versions"],
        },
        "program_mib": None if planned is None else planned / _MIB,
        "peak_mib": None if peak is None else peak / _MIB,
    }
