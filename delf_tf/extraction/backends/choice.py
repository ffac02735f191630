"""Chooses the engine and precision, and opens the network that the engine runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from absl import logging

from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, require, require_choice
from delf_tf.extraction.backends import network_folder, openvino_runtime, precision
from delf_tf.extraction.backends.network_folder import NetworkFolder
from delf_tf.extraction.backends.precision import INT8

if TYPE_CHECKING:
    from delf_tf.extraction.backends.openvino import OpenVinoNetwork
    from delf_tf.models.retrieval_model import RetrievalModel

AUTO, TENSORFLOW, OPENVINO = "auto", "tensorflow", "openvino"
BACKENDS = (AUTO, TENSORFLOW, OPENVINO)
PRECISIONS = (AUTO, precision.FLOAT32, precision.BFLOAT16, INT8)

# The files of a network's folder that its features depend on.
FILES = (network_folder.XML, network_folder.WEIGHTS)


class Engine(NamedTuple):
    """What runs a network: "tensorflow" or "openvino", in "float32", "bfloat16" or "int8"."""

    backend: str
    precision: str


# Where Linux shows accelerators that TensorFlow would use; asking TensorFlow takes seconds.
_DEVICES = ("nvidia[0-9]*", "accel[0-9]*", "kfd")


def resolve_backend(backend: str) -> str:
    """Returns "openvino" or "tensorflow" for "auto", and others as they are.

    "auto" is OpenVINO where it is installed and the machine has no accelerator.

    Args:
      backend: one of BACKENDS.

    Raises:
      InputError: none of them.
    """
    require_choice("backend", backend, BACKENDS)
    if backend != AUTO:
        return backend
    return OPENVINO if openvino_runtime.is_installed() and not _has_accelerator() else TENSORFLOW


def resolve_precision(backend: str, wanted: str) -> str:
    """Returns the precision that `wanted` means with a backend.

    "auto" is bfloat16 where convolutions run on hardware that multiplies it: TPUs, NVIDIA GPUs
    since Ampere, and without an accelerator CPUs with AVX512-BF16 or AMX. It depends on the
    machine: what is made by several machines together should name its precision.

    Args:
      backend: "tensorflow" or "openvino".
      wanted: one of PRECISIONS.

    Raises:
      InputError: an unknown precision, or int8 with TensorFlow.
    """
    require_choice("precision", wanted, PRECISIONS)
    require(
        wanted != INT8 or backend == OPENVINO,
        "precision int8 must go with the backend openvino.",
        hint="--backend=openvino",
        backend=backend,
    )
    if wanted != AUTO:
        return wanted
    fast = precision.cpu_has_bfloat16 if backend == OPENVINO else precision.has_fast_bfloat16
    return precision.BFLOAT16 if fast() else precision.FLOAT32


def open_network(
    build: Callable[[], RetrievalModel],
    *,
    fingerprint: str,
    cache_dir: StrPath,
    wanted: str = precision.FLOAT32,
    quantized: StrPath | None = None,
) -> OpenVinoNetwork:
    """Returns a network that OpenVINO runs.

    Args:
      build: makes the model; called if no exported network of `fingerprint` is in the cache.
      fingerprint: of the model and its weights.
      cache_dir: where exported networks, and what OpenVINO compiles of them, are kept.
      wanted: "float32", "bfloat16" or "int8".
      quantized: the folder of a quantised network, for "int8".

    Raises:
      InputError: int8 without such a folder, or with another model's.
    """
    from delf_tf.extraction.backends.openvino import OpenVinoNetwork  # noqa: PLC0415 - an extra

    if wanted == INT8:
        require(
            bool(quantized),
            "precision int8 needs a quantised network.",
            hint="`delf_tf export --images_dir` makes one; --quantized_network names it.",
            quantized_network=quantized,
        )
        folder = network_folder.read_folder(quantized, fingerprint)
    else:
        folder = exported(build, fingerprint=fingerprint, cache_dir=cache_dir)
    return OpenVinoNetwork(
        folder, precision=wanted, cache_dir=Path(cache_dir) / "openvino" / "compiled"
    )


def exported(
    build: Callable[[], RetrievalModel], *, fingerprint: str, cache_dir: StrPath
) -> NetworkFolder:
    """Returns the float32 network of a model, exported if the cache does not hold it.

    Args:
      build: makes the model.
      fingerprint: of the model and its weights.
      cache_dir: of exported networks.
    """
    path = Path(cache_dir) / "openvino" / f"network-{fingerprint}"
    if path.is_dir():
        try:
            folder = network_folder.read_folder(path, fingerprint)
            folder.read()
        except InputError as error:
            logging.warning("Exporting the network again: %s", error)
        else:
            return folder
    return network_folder.export_network(build(), path, fingerprint=fingerprint)


def _has_accelerator() -> bool:
    return any(any(Path("/dev").glob(pattern)) for pattern in _DEVICES)
