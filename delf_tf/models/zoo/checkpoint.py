"""Weights files: one .npz of arrays keyed by variable path, with what rebuilds the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from delf_tf import npz
from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, invalid, require
from delf_tf.models.variables import variables_by_path

OPTIONS_KEY = "options.json"
FORMAT = "delf_tf weights 1"
_MAX_OPTIONS_BYTES = 1 << 20
_MAX_LISTED = 8
_HINT = "Make one with `delf_tf convert_weights`, or copy the file again."


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
    return npz.write_with_text(path, arrays, OPTIONS_KEY, text)


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
    options, arrays = read_weights(path)
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
        with _open(path) as reader:
            return OPTIONS_KEY in reader.members
    except InputError:
        return False


def read_options(path: StrPath) -> dict[str, Any]:
    """Returns a weights file's options: "name", "kwargs", "preprocessing", "provenance".

    Raises:
      InputError: not a weights file of ours, or a damaged one.
    """
    with _open(path) as reader:
        return _read_options(reader)


def read_weights(path: StrPath) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns a weights file's options, as `read_options` does, and its arrays by variable path.

    Raises:
      InputError: not a weights file of ours, truncated, too large, or an array that is not of
        finite numbers.
    """
    with _open(path) as reader:
        options = _read_options(reader)
        headers = {name: reader.header(name) for name in reader.names}
        strange = [
            f"{name} {dtype} {list(shape)}"
            for name, (shape, dtype) in headers.items()
            if dtype.kind not in "fiu"
        ]
        _refuse({"not numbers": strange}, path)
        arrays = {name: reader.array(name) for name in reader.names}
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    _refuse({"not finite": bad}, path)
    return options, arrays


def load_weights(model: tf.keras.Model, path: StrPath) -> dict[str, Any]:
    """Sets all weights of a built model from a file, or none.

    Args:
      model: of create_model, of the file's architecture.
      path: a file of save_weights; float16 and float64 arrays are cast.

    Returns:
      The file's options.

    Raises:
      InputError: see `read_weights` and `require_fit`; the model is as it was.
    """
    options, arrays = read_weights(path)
    assign(model, arrays, path)
    return options


def assign(model: tf.keras.Model, arrays: Mapping[str, np.ndarray], path: StrPath) -> None:
    """Sets all weights of a built model to arrays by variable path, read from the file `path`.

    Raises:
      InputError: see `require_fit`; the model is as it was.
    """
    variables = variables_by_path(model)
    require_fit(arrays, {name: tuple(one.shape) for name, one in variables.items()}, path)
    for name, variable in variables.items():
        variable.assign(arrays[name].astype(tf.as_dtype(variable.dtype).as_numpy_dtype))


def require_fit(
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    path: StrPath | None = None,
    *,
    exactly: bool = True,
) -> None:
    """Requires that arrays are those of a network.

    Args:
      arrays: by variable path.
      shapes: of the network's variables, by path.
      path: of the file that the arrays come from; None: of no file.
      exactly: whether there may be no other arrays.

    Raises:
      InputError: an array is missing, of another shape, or not the network's. The first of each
        are listed.
    """
    extra = sorted(set(arrays) - set(shapes)) if exactly else []
    misshaped = [
        f"{name} {arrays[name].dtype} {list(arrays[name].shape)}, must be {list(shape)}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != shape
    ]
    missing = [name for name in shapes if name not in arrays]
    _refuse({"missing": missing, "extra": extra, "misshaped": misshaped}, path)


def not_ours(path: StrPath) -> InputError:
    """Returns the error for a file that this program did not write, to be raised."""
    return invalid(
        "Weights must be a file written by delf_tf.",
        hint="Convert a foreign file with `delf_tf convert_weights`.",
        path=path,
    )


def _open(path: StrPath) -> npz.NpzReader:
    return npz.NpzReader(path, hint=_HINT)


def _read_options(reader: npz.NpzReader) -> dict[str, Any]:
    if OPTIONS_KEY not in reader.members:
        raise not_ours(reader.path)
    try:
        options = json.loads(reader.text(OPTIONS_KEY, _MAX_OPTIONS_BYTES))
    except (json.JSONDecodeError, RecursionError):
        options = None
    if not isinstance(options, dict) or options.get("format") != FORMAT:
        raise not_ours(reader.path)
    wanted = {"name": str, "kwargs": dict, "preprocessing": dict, "provenance": dict}
    for key, kind in wanted.items():
        require(
            isinstance(options.get(key), kind),
            f"{key} in a weights file must be a {kind.__name__}.",
            path=reader.path,
            **{key: options.get(key)},
        )
    return options


def _refuse(faults: dict[str, list[str]], path: StrPath | None) -> None:
    """Raises one error that lists the first names of every kind of fault."""
    shown = {}
    for kind, names in faults.items():
        if names:
            more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
            shown[kind] = "; ".join(names[:_MAX_LISTED]) + more
    if shown:
        must = "Weights must hold exactly the model's arrays, finite and of the model's shapes."
        lines = ", ".join(f"{kind}: {names}" for kind, names in shown.items())
        received = {} if path is None else {"path": path}
        raise invalid(f"{must} Found {lines}.", hint="Nothing was loaded.", **received)
