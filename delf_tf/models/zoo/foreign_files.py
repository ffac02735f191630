"""Reads the weights files of other programs as name -> array; nothing in them is executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf import npz, safe_pickle
from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, invalid, require
from delf_tf.models.zoo import torch_file

Arrays = dict[str, np.ndarray]

MAX_BYTES = 8 << 30
MAX_ARRAYS = 50_000
# Where training programs keep the weights in a checkpoint of more than weights.
_STATE_KEYS = ("model_state", "state_dict", "model")
_TF_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def read_arrays(path: StrPath) -> Arrays:
    """Reads every array of a weights file.

    Args:
      path: .npz, .safetensors, .h5 (Keras' layout by layers), .pdparams, .pth / .pt / .pyth
        (PyTorch is not needed), or a TensorFlow checkpoint (prefix, or .index file).

    Returns:
      Name -> array. Names of nested containers are joined by dots.

    Raises:
      InputError: no such file, an unknown kind, too large, or damaged.
    """
    path = Path(path)
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    if Path(f"{prefix}.index").is_file():
        return _read("a TensorFlow checkpoint", _read_tensorflow, prefix)
    require(path.is_file(), "A weights file must exist.", path=path)
    require(
        path.suffix.lower() in READERS,
        f"A weights file must be one of {', '.join(READERS)}, or a TensorFlow checkpoint.",
        path=path,
    )
    require(
        path.stat().st_size <= MAX_BYTES,
        f"A weights file must have at most {MAX_BYTES} bytes.",
        path=path,
    )
    return _read(f"a whole {path.suffix} file", READERS[path.suffix.lower()], path)


def flatten(content: Any) -> Arrays:
    """Returns the arrays of nested dicts by their dotted names; other values are left out.

    Args:
      content: what a program saved: a state dict, or a dict that holds one as "model_state",
        "state_dict" or "model". "module." before every name is taken off.

    Raises:
      InputError: no dict, or no array in it.
    """
    require(isinstance(content, Mapping), "Weights must be a dict.", type=type(content).__name__)
    for key in _STATE_KEYS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    arrays: Arrays = {}
    _collect(content, "", arrays)
    require(bool(arrays), "Weights must hold arrays.", keys=list(content)[:5])
    if all(name.startswith("module.") for name in arrays):
        arrays = {name[len("module.") :]: array for name, array in arrays.items()}
    return arrays


def _collect(content: Mapping[Any, Any], prefix: str, arrays: Arrays) -> None:
    for key, value in content.items():
        if isinstance(value, Mapping):
            _collect(value, f"{prefix}{key}.", arrays)
        elif isinstance(value, np.ndarray):
            arrays[f"{prefix}{key}"] = value


def _read(kind: str, reader: Callable[[Path], Arrays], path: Path) -> Arrays:
    try:
        return reader(path)
    except InputError:
        raise
    except Exception as fault:  # What damaged bytes do to parsers is open-ended.
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:150]
        raise invalid(
            f"The weights must be {kind}.", hint="Copy it again.", path=path, reason=reason
        ) from None


def _read_npz(path: Path) -> Arrays:
    with npz.NpzReader(path, max_bytes=MAX_BYTES, hint="Copy it again.") as reader:
        _require_size(0, len(reader.names), path)
        arrays = {name: reader.array(name) for name in reader.names}
    texts = [name for name, array in arrays.items() if array.dtype.kind not in "biuf"]
    require(not texts, "Arrays must be of numbers.", path=path, names=texts[:5])
    return arrays


def _read_safetensors(path: Path) -> Arrays:
    from safetensors.numpy import load_file  # noqa: PLC0415 - needed for this kind only

    return load_file(path)


def _read_paddle(path: Path) -> Arrays:
    return flatten(safe_pickle.load(path, max_bytes=MAX_BYTES))


def _read_torch(path: Path) -> Arrays:
    return flatten(torch_file.load(path, max_bytes=MAX_BYTES))


def _read_hdf5(path: Path) -> Arrays:
    import h5py  # noqa: PLC0415 - needed for this kind only

    arrays: Arrays = {}
    with h5py.File(path, "r") as file:
        datasets: dict[str, Any] = {}
        file.visititems(
            lambda name, item: datasets.update({name: item} if hasattr(item, "nbytes") else {})
        )
        _require_size(sum(int(item.nbytes) for item in datasets.values()), len(datasets), path)
        for name, item in datasets.items():
            # model_weights/LAYER/LAYER/kernel:0; the last group is the layer that owns it.
            parts = name.split("/")
            arrays[".".join([*parts[-2:-1], parts[-1].split(":")[0]])] = np.asarray(item)
    return arrays


def _read_tensorflow(prefix: Path) -> Arrays:
    import tensorflow as tf  # noqa: PLC0415 - needed for this kind only

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        _require_size(sum(4 * int(np.prod(s)) for s in shapes.values()), len(shapes), prefix)
        wanted = [name for name in shapes if name.endswith(_TF_SUFFIX)]
        tensors = {name: reader.get_tensor(name) for name in wanted if ".OPTIMIZER" not in name}
    except tf.errors.OpError as error:
        raise ValueError(error.message) from None
    names = {name: name[: -len(_TF_SUFFIX)].replace("/", ".") for name in tensors}
    return {names[key].removeprefix("model."): np.asarray(tensors[key]) for key in tensors}


def _require_size(num_bytes: int, num_arrays: int, path: Path) -> None:
    require(
        num_bytes <= MAX_BYTES and num_arrays <= MAX_ARRAYS,
        f"Weights must have at most {MAX_ARRAYS} arrays and {MAX_BYTES} bytes.",
        path=path,
        arrays=num_arrays,
        bytes=num_bytes,
    )


READERS: dict[str, Callable[[Path], Arrays]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".pdparams": _read_paddle,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".pyth": _read_torch,
}
