"""Numeric precision of inference, and which ones this machine computes fast."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from delf_tf.checks import require_choice

AUTO, FLOAT32, BFLOAT16 = "auto", "float32", "bfloat16"
PRECISIONS = (AUTO, FLOAT32, BFLOAT16)

# Instructions that multiply bfloat16, as Linux names them.
_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}
_CPU_INFO = Path("/proc/cpuinfo")
# The first NVIDIA GPUs with bfloat16 (Ampere).
_MIN_COMPUTE_CAPABILITY = (8, 0)


def resolve_precision(precision: str) -> str:
    """Returns "float32" or "bfloat16" for "auto", and others as they are.

    "auto" is bfloat16 where convolutions run on hardware that multiplies it: TPUs, NVIDIA GPUs
    since Ampere, and without an accelerator CPUs with AVX512-BF16 or AMX. It depends on the
    machine: what is made by several machines together should name its precision.

    Args:
      precision: one of PRECISIONS.

    Raises:
      InputError: none of them.
    """
    require_choice("precision", precision, PRECISIONS)
    if precision != AUTO:
        return precision
    return BFLOAT16 if has_fast_bfloat16() else FLOAT32


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
