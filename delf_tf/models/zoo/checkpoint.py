"""Weights files: one .npz of arrays keyed by variable path, with what rebuilds the network."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from delf_tf.artifacts import StrPath, atomic_write
from delf_tf.checks import InputError, invalid, require
from delf_tf.models.variables import variables_by_path

OPTIONS_KEY = "options.json"
FORMAT = "delf_tf weights 1"
MAX_FILE_BYTES = 8 << 30
MAX_OPTIONS_BYTES = 1 << 20
MAX_ENTRIES = 20_000
_MAX_LISTED = 8
_MAX_HEADER_BYTES = 4096
# What zipfile raises for damaged, encrypted or unknown entries.
_READ_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError)
# A fixed date, so that equal weights are equal files.
_DATE = (1980, 1, 1, 0, 0, 0)


def save_weights(
    model: tf.keras.Model, path: StrPath, provenance: dict[str, Any] | None = None
) -> Path:
    """Writes a model's weights and options, whole or not at all.

    Args:
      model: a built model of create_model.
      path: of the .npz to write.
      provenance: JSON-able; where the weights come from, their licence, their training data.

    Returns:
      The path. Equal weights, options and provenance give equal bytes.

    Raises:
      InputError: a weight is NaN or infinite.
    """
    arrays = {name: np.asarray(v) for name, v in variables_by_path(model).items()}
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    require(not bad, "Weights must be finite.", hint="Nothing was written.", not_finite=bad[:8])
    return write_arrays(path, arrays, model.options, provenance)


def write_arrays(
    path: StrPath,
    arrays: dict[str, np.ndarray],
    options: dict[str, Any],
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Writes a weights file from arrays keyed by variable path; see save_weights.

    Args:
      path: of the .npz to write.
      arrays: variable path -> array.
      options: `model.options` of the model that they fit.
      provenance: JSON-able.
    """
    header = {"format": FORMAT, **options, "provenance": provenance or {}}
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(OPTIONS_KEY, _DATE), text)
        for name in sorted(arrays):
            with archive.open(
                zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True
            ) as entry:
                np.lib.format.write_array(entry, np.asarray(arrays[name], order="C"))
    return Path(path)


def halve(path: StrPath, output: StrPath) -> Path:
    """Writes a weights file again in float16, half as large; `load_weights` widens it.

    Vectors, such as biases and the statistics of normalisation, are few and stay as they are:
    small variances lose much in float16.

    Args:
      path: a file of save_weights.
      output: of the file to write.

    Returns:
      `output`.

    Raises:
      InputError: not a weights file of ours, damaged, or a weight that float16 cannot hold.
    """
    with _open(path) as archive:
        options = _read_options(archive, path)
        names = [name.removesuffix(".npy") for name in archive.namelist() if name != OPTIONS_KEY]
        shapes = {name: _parse_header(_read_head(archive, name, path))[0] for name in names}
        arrays = _read_arrays(archive, path, shapes)
    largest = float(np.finfo(np.float16).max)
    matrices = {name: array for name, array in arrays.items() if array.ndim > 1}
    wide = [name for name, array in matrices.items() if np.abs(array).max(initial=0) > largest]
    require(not wide, f"Weights must be at most {largest} for float16.", names=wide[:8])
    halved = {name: array.astype(np.float16) for name, array in matrices.items()}
    provenance = options.pop("provenance")
    options.pop("format")
    return write_arrays(output, {**arrays, **halved}, options, provenance)


def is_weights_file(path: StrPath) -> bool:
    """Tells whether a file is one of ours, not whether it is undamaged."""
    try:
        with _open(path) as archive:
            return OPTIONS_KEY in archive.namelist()
    except InputError:
        return False


def read_options(path: StrPath) -> dict[str, Any]:
    """Returns a weights file's options: "name", "kwargs", "preprocessing", "provenance".

    Raises:
      InputError: not a weights file of ours, or a damaged one.
    """
    with _open(path) as archive:
        return _read_options(archive, path)


def load_weights(model: tf.keras.Model, path: StrPath) -> dict[str, Any]:
    """Sets all weights of a built model from a file, or none.

    Args:
      model: of create_model, of the file's architecture.
      path: a file of save_weights; float16 and float64 arrays are cast.

    Returns:
      The file's options.

    Raises:
      InputError: not a weights file, truncated, too large; an array that is missing, that the
        model does not have, of another shape, of another type, NaN or infinite. The first of each
        are listed, and the model is as it was.
    """
    variables = variables_by_path(model)
    with _open(path) as archive:
        options = _read_options(archive, path)
        shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
        arrays = _read_arrays(archive, path, shapes)
    for name, variable in variables.items():
        variable.assign(arrays[name].astype(tf.as_dtype(variable.dtype).as_numpy_dtype))
    return options


def _open(path: StrPath) -> zipfile.ZipFile:
    require(Path(path).is_file(), "Weights must be a file that exists.", path=path)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise invalid(
            "Weights must be an undamaged .npz of delf_tf.",
            hint="Make one with `delf_tf convert_weights`, or copy the file again.",
            path=path,
        ) from None
    entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ENTRIES or size > MAX_FILE_BYTES:
        archive.close()
        raise invalid(
            f"Weights must hold at most {MAX_ENTRIES} arrays and {MAX_FILE_BYTES} bytes.",
            path=path,
            arrays=len(entries),
            bytes=size,
        )
    return archive


def _read_entry(archive: zipfile.ZipFile, name: str, path: StrPath) -> bytes:
    try:
        return archive.read(name)
    except _READ_ERRORS:
        raise _damaged(path, name) from None


def _damaged(path: StrPath, entry: str) -> InputError:
    return invalid(
        "Weights must be undamaged.", hint="Copy the file again.", path=path, entry=entry
    )


def _read_options(archive: zipfile.ZipFile, path: StrPath) -> dict[str, Any]:
    names = archive.namelist()
    foreign = invalid(
        "Weights must be a file written by delf_tf.",
        hint="Convert a foreign file with `delf_tf convert_weights`.",
        path=path,
    )
    if OPTIONS_KEY not in names:
        raise foreign
    require(
        archive.getinfo(OPTIONS_KEY).file_size <= MAX_OPTIONS_BYTES,
        f"Options in a weights file must take at most {MAX_OPTIONS_BYTES} bytes.",
        path=path,
    )
    try:
        options = json.loads(_read_entry(archive, OPTIONS_KEY, path).decode("utf-8"))
    except (ValueError, RecursionError):
        raise _damaged(path, OPTIONS_KEY) from None
    if not isinstance(options, dict) or options.get("format") != FORMAT:
        raise foreign
    wanted = {"name": str, "kwargs": dict, "preprocessing": dict, "provenance": dict}
    for key, kind in wanted.items():
        require(
            isinstance(options.get(key), kind),
            f"{key} in a weights file must be a {kind.__name__}.",
            path=path,
            **{key: options.get(key)},
        )
    return options


def _read_arrays(
    archive: zipfile.ZipFile, path: StrPath, shapes: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    held = [name.removesuffix(".npy") for name in archive.namelist() if name != OPTIONS_KEY]
    held_once = set(held)
    faults = {
        "missing": [name for name in shapes if name not in held_once],
        "extra": sorted(name for name in held_once if name not in shapes),
        "repeated": sorted(held_once) if len(held) > len(held_once) else [],
    }
    _refuse(faults, path)
    found = {name: _read_array(archive, name, path, shapes[name]) for name in shapes}
    wrong = {name: got for name, got in found.items() if isinstance(got, str)}
    arrays = {name: got for name, got in found.items() if not isinstance(got, str)}
    faults = {
        "misshaped": [f"{name} {wrong[name]}, must be {list(shapes[name])}" for name in wrong],
        "not_finite": [name for name, array in arrays.items() if not np.isfinite(array).all()],
    }
    _refuse(faults, path)
    return arrays


def _refuse(faults: dict[str, list[str]], path: StrPath) -> None:
    """Raises one error that lists the first names of every kind of fault."""
    shown = {}
    for kind, names in faults.items():
        if names:
            more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
            shown[kind] = "; ".join(names[:_MAX_LISTED]) + more
    if shown:
        must = "Weights must hold exactly the model's arrays, finite and of the model's shapes."
        lines = ", ".join(f"{kind}: {names}" for kind, names in shown.items())
        raise invalid(f"{must} Found {lines}.", hint="Nothing was loaded.", path=path)


def _read_array(
    archive: zipfile.ZipFile, name: str, path: StrPath, shape: tuple[int, ...]
) -> np.ndarray | str:
    """Returns the array, or what it is instead; its header is checked before it is read."""
    raw_header = _read_head(archive, name, path)
    try:
        got, fortran, dtype = _parse_header(raw_header)
    except (ValueError, EOFError, SyntaxError, MemoryError, RecursionError):
        raise _damaged(path, name) from None
    if got != shape or dtype.kind not in "fiu":
        return f"{dtype} {list(got)}"
    start = raw_header.tell()
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if archive.getinfo(f"{name}.npy").file_size != start + size:
        raise _damaged(path, name)
    flat = np.frombuffer(_read_entry(archive, f"{name}.npy", path)[start:], dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _read_head(archive: zipfile.ZipFile, name: str, path: StrPath) -> io.BytesIO:
    try:
        with archive.open(f"{name}.npy") as entry:
            return io.BytesIO(entry.read(_MAX_HEADER_BYTES))
    except _READ_ERRORS:
        raise _damaged(path, name) from None


def _parse_header(head: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(head)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(head)
    return np.lib.format.read_array_header_2_0(head)
