"""Imports OpenVINO once, without the usage statistics that it would send."""

from __future__ import annotations

import functools
import importlib.util
import sys
from typing import Any

from delf_tf.checks import invalid


def is_installed() -> bool:
    """Tells whether the package is there; does not import it."""
    return importlib.util.find_spec("openvino") is not None


@functools.cache
def load() -> Any:
    """Returns the module `openvino`.

    Raises:
      InputError: it is not installed.
    """
    # OpenVINO and NNCF report each import and conversion to their makers unless this is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino  # noqa: PLC0415 - an extra
    except ImportError:
        raise invalid(
            "The backend openvino needs the package openvino.",
            hint="pip install delf_tf[openvino]",
        ) from None
    return openvino


@functools.cache
def core() -> Any:
    """Returns the one openvino.Core of this process."""
    return load().Core()
