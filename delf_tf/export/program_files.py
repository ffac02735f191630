"""The files of an exported XLA program, read without trust and without TensorFlow."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf import artifacts
from delf_tf.checks import InputError, invalid, require
from delf_tf.features.tensor_file import TensorFile

# The folder's files.
METADATA, PROGRAM, WEIGHTS = "program.json", "program.hlo.pb", "weights.safetensors"
FORMAT_VERSION = 1
IMAGES = "images"

# What numbers are in a program, and in which of the same width the weights' file keeps them.
STORED = {"float32": "<f4", "bfloat16": "<u2", "int32": "<u4", "uint8": "u1"}

_MAX_METADATA_BYTES = 4 << 20
_MAX_PROGRAM_BYTES = 256 << 20
_MAX_WEIGHTS_BYTES = 8 << 30
_MAX_ITEMS = 1 << 36
AGAIN = "Export it again: delf_tf export --format=hlo."


def read_metadata(directory: Path) -> dict[str, Any]:
    """Returns the checked program.json of an exported program; loads nothing.

    Raises:
      InputError: see `xla_program.load_program`.
    """
    path = directory / METADATA
    require(
        path.is_file(),
        f"The folder must hold {METADATA}, as those of `delf_tf export --format=hlo` do.",
        directory=directory,
    )
    require(path.stat().st_size <= _MAX_METADATA_BYTES, f"{METADATA} must be 4 MiB at most.")
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        version = metadata["format_version"]
        if version == FORMAT_VERSION:
            _check(metadata)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        reason = str(error) if isinstance(error, InputError) else type(error).__name__
        raise invalid(f"{METADATA} must be whole.", hint=AGAIN, path=path, reason=reason) from None
    require(
        version == FORMAT_VERSION,
        f"The program's format must be version {FORMAT_VERSION}.",
        hint=AGAIN,
        path=path,
        format_version=version,
    )
    return metadata


def _check(metadata: dict[str, Any]) -> None:
    """Requires arguments and outputs that can be: bounded shapes, known numbers."""
    for one in [*metadata["arguments"], *metadata["outputs"]]:
        shape = one["shape"]
        sizes = all(isinstance(axis, int) and axis >= 0 for axis in shape)
        require(
            isinstance(one["name"], str)
            and one["dtype"] in STORED
            and sizes
            and math.prod(shape) <= _MAX_ITEMS,
            "Each array must have a name, a shape and a dtype that is known.",
            array=one,
        )
    first, *weights = metadata["arguments"]
    shape = first["shape"]
    images = first["name"] == IMAGES and first["dtype"] == "uint8" and min(shape) >= 1
    require(
        images and len(shape) == 4 and shape[3] == 3,
        "The first argument must be images, uint8 [B, H, W, 3].",
        argument=first,
    )
    said = {"precision": str, "image_scales": list, "fingerprint": str, "model": dict}
    require(
        all(isinstance(metadata[name], kind) for name, kind in {**said, "versions": dict}.items()),
        f"{METADATA} must say what made it.",
    )
    require(
        all(one["shape"][:1] == shape[:1] for one in metadata["outputs"]) and metadata["outputs"],
        "Each output must have a row for each image.",
        outputs=metadata["outputs"],
    )
    names = [one["name"] for one in weights]
    require(
        len(set(names)) == len(names), "Weights must have unlike names.", num_weights=len(names)
    )
    num_bytes = sum(math.prod(one["shape"]) * _itemsize(one) for one in weights)
    require(
        num_bytes <= _MAX_WEIGHTS_BYTES,
        f"Weights must take {_MAX_WEIGHTS_BYTES} bytes at most.",
        num_bytes=num_bytes,
    )


def read_program(directory: Path, metadata: dict[str, Any]) -> bytes:
    """Returns the program's bytes.

    Raises:
      InputError: see `xla_program.load_program`.
    """
    path = directory / PROGRAM
    require(path.is_file(), f"The folder must hold {PROGRAM}.", hint=AGAIN, directory=directory)
    require(
        path.stat().st_size <= _MAX_PROGRAM_BYTES,
        f"{PROGRAM} must be {_MAX_PROGRAM_BYTES >> 20} MiB at most.",
        path=path,
    )
    require(
        artifacts.file_fingerprint(path) == metadata.get("program_fingerprint"),
        f"{PROGRAM} must be the file that was exported: its checksum differs.",
        hint=AGAIN,
        path=path,
    )
    return path.read_bytes()


def read_weights(directory: Path, metadata: dict[str, Any]) -> list[np.ndarray]:
    """Returns the arguments behind the images, in order.

    Raises:
      InputError: see `xla_program.load_program`.
    """
    file = TensorFile(directory / WEIGHTS)
    require(
        file.metadata.get("program_fingerprint") == metadata["program_fingerprint"],
        f"{WEIGHTS} must be of the same export as {PROGRAM}.",
        hint=AGAIN,
        directory=directory,
    )
    with file.open() as descriptor:
        return [_read_array(file, descriptor, one) for one in metadata["arguments"][1:]]


def _read_array(file: TensorFile, descriptor: int, one: dict[str, Any]) -> np.ndarray:
    name, shape = one["name"], tuple(one["shape"])
    found = file.shapes.get(name), file.dtypes.get(name)
    require(
        found == ((math.prod(shape),), np.dtype(STORED[one["dtype"]])),
        f"{WEIGHTS} must hold each argument in its shape and dtype.",
        hint=AGAIN,
        argument=one,
    )
    values = file.read_checked(descriptor, name)
    return values.view(numpy_dtype(one["dtype"])).reshape(shape)


def numpy_dtype(name: str) -> Any:
    """Returns the dtype of a name of STORED; bfloat16 is JAX's."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes  # noqa: PLC0415 - comes with JAX

    return np.dtype(ml_dtypes.bfloat16)


def _itemsize(one: dict[str, Any]) -> int:
    return np.dtype(STORED[one["dtype"]]).itemsize
