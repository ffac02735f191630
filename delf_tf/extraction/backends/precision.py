"""Numeric precisions of inference, and whether this machine computes bfloat16 fast."""

from __future__ import annotations

import os
import platform
from pathlib import Path

FLOAT32, BFLOAT16, INT8 = "float32", "bfloat16", "int8"

# Instructions that multiply bfloat16, as Linux names them.
_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}
_CPU_INFO = Path("/proc/cpuinfo")
# The first NVIDIA GPUs with bfloat16 (Ampere).
_MIN_COMPUTE_CAPABILITY = (8, 0)


def has_fast_bfloat16() -> bool:
    """Tells whether the device that TensorFlow prefers here multiplies bfloat16 in hardware."""
    import tensorflow as tf  # noqa: PLC0415 - what runs without it never asks

    if tf.config.list_logical_devices("TPU"):
        return True
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return tuple(details.get("compute_capability", (0, 0))) >= _MIN_COMPUTE_CAPABILITY
    # Without oneDNN TensorFlow emulates bfloat16 on CPUs.
    one_dnn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1").lower() not in ("0", "false")
    return one_dnn and cpu_has_bfloat16()


def cpu_has_bfloat16() -> bool:
    """Tells whether the processor multiplies bfloat16 in hardware, as far as Linux says."""
    return bool(_CPU_FLAGS & _cpu_flags())


def _cpu_flags() -> set[str]:
    if platform.system() != "Linux" or not _CPU_INFO.is_file():
        return set()
    for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return set(value.split())
    return set()
