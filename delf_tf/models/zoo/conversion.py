"""Converts weights of other programs to weights files of ours: complete and checked, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from delf_tf.artifacts import StrPath, file_sha256
from delf_tf.checks import (
    UsageError,
    as_array,
    invalid,
    require,
    require_absent,
    require_choice,
)
from delf_tf.models.registry import build
from delf_tf.models.retrieval_model import RetrievalModel
from delf_tf.models.variables import variables_by_path
from delf_tf.models.zoo import checkpoint, foreign_files
from delf_tf.models.zoo.names import Names
from delf_tf.models.zoo.sources import SOURCES, Arrays, describe_arrays

# The source that is this program; its weights are only made smaller.
OWN = "delf_tf"
_MAX_LISTED = 10


def convert_arrays(source: str, arrays: Arrays, **options: Any) -> RetrievalModel:
    """Builds the network that foreign arrays belong to, and gives it their values.

    Args:
      source: a key of SOURCES.
      arrays: foreign name -> array.
      **options: of the network, which change no variable.

    Returns:
      The model; its options and preprocessing are the foreign program's.

    Raises:
      InputError: arrays that are missing, unknown, of another shape, not numbers, NaN or infinite:
        each is listed with its shape.
    """
    model_name, kwargs = describe_arrays(source, arrays)
    model = build(model_name, seed=0, **{**kwargs, **options})
    variables = variables_by_path(model)
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    values = translate(SOURCES[source].names, arrays, shapes)
    for path, variable in variables.items():
        variable.assign(values[path])
    return model


def convert_file(
    source: str, arrays: Arrays, input_path: StrPath, output_path: StrPath
) -> RetrievalModel:
    """Converts what was read from `input_path` and writes our weights file.

    Args:
      source: a key of SOURCES.
      arrays: foreign name -> array, the content of `input_path`.
      input_path: recorded by name and sha256.
      output_path: the .npz to write.

    Returns:
      The model.
    """
    model = convert_arrays(source, arrays)
    provenance = {
        "source": source,
        "file": Path(input_path).name,
        "sha256": file_sha256(input_path),
    }
    checkpoint.save_weights(model, output_path, provenance)
    return model


def convert_weights(
    source: str,
    input_path: StrPath,
    output_path: StrPath,
    *,
    reference: StrPath | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Converts a file of another program; or writes one of ours again, half as large.

    Args:
      source: a key of SOURCES, or OWN.
      input_path: the weights.
      output_path: the .npz to write.
      reference: outputs of the other program to compare with (.npz), see `compare`; or None.
      overwrite: replace what is at output_path.

    Returns:
      What it became: "path"; of foreign weights the model's options; "differences", if compared.

    Raises:
      UsageError: an unknown source.
      InputError: an output that exists, weights that cannot be read, or see `convert_arrays`.
    """
    require_choice("source", source, [OWN, *SOURCES], UsageError)
    output_path = Path(output_path)
    require_absent("The output", output_path, overwrite)
    if source == OWN:
        return {"path": str(checkpoint.halve(input_path, output_path))}
    arrays = foreign_files.read_arrays(input_path)
    model = convert_file(source, arrays, input_path, output_path)
    result = {"path": str(output_path), **model.options}
    if reference is not None:
        result["differences"] = compare(model, foreign_files.read_arrays(reference))
    return result


def compare(model: RetrievalModel, reference: Arrays) -> dict[str, float]:
    """Measures how far a converted model is from the program it comes from.

    Args:
      model: with a "global" output.
      reference: "image" [H, W, 3] uint8 RGB; "network_input" [H, W, 3], what the other program
        made of it, in its channel order; "descriptor" [D], what its network made of that.

    Returns:
      "model": the relative L2 error of the normalised descriptor from the other program's own
      network input; "preprocessing": the largest error of our network input, relative to the
      largest value of its.
    """
    for name in ("image", "network_input", "descriptor"):
        require(name in reference, f"A reference must hold {name}.", names=sorted(reference))
    image = as_array("image", reference["image"], ("H", "W", 3))
    theirs = as_array("network_input", reference["network_input"], (*image.shape,))
    ours = np.asarray(model.preprocess(image[np.newaxis]))[0]
    pixels = theirs * model.preprocess.options()["std"] + model.preprocess.options()["mean"]
    if model.preprocess.channel_order == "BGR":
        pixels = pixels[..., ::-1]
    got = np.asarray(model(pixels[np.newaxis].astype(np.float32), outputs=("global",))["global"])[0]
    want = as_array("descriptor", reference["descriptor"], (len(got),))
    return {
        "model": float(np.linalg.norm(got - want / np.linalg.norm(want))),
        "preprocessing": float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
    }


def translate(
    names: Names, arrays: Arrays, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Gives foreign arrays our names and axes.

    Args:
      names: of the program that they come from.
      arrays: foreign name -> array.
      shapes: our variable path -> shape, of every variable that must be there.

    Returns:
      Our variable path -> float32 value, for exactly the paths of `shapes`.

    Raises:
      InputError: see `convert_arrays`.
    """
    values: dict[str, np.ndarray] = {}
    faults: dict[str, list[str]] = {"unknown": [], "of another shape": [], "not finite numbers": []}
    ignored = []
    for name, array in arrays.items():
        path = names.path(name)
        if path not in shapes:
            known = names.is_ignored(name)
            (ignored if known else faults["unknown"]).append(f"{name} {list(array.shape)}")
            continue
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            faults["not finite numbers"].append(f"{name} {list(array.shape)}")
            continue
        values[path] = names.arrange(array, path, shapes[path]).astype(np.float32)
        if values[path].shape != shapes[path]:
            faults["of another shape"].append(
                f"{name} {list(array.shape)} for {path} {list(shapes[path])}"
            )
    found = {names.path(name) for name in arrays} | set(names.defaults)
    for path, value in names.defaults.items():
        if path not in values and path in shapes:
            values[path] = np.full(shapes[path], value, np.float32)
    faults["missing"] = [f"{p} {list(s)}" for p, s in shapes.items() if p not in found]
    _refuse(faults)
    if ignored:
        logging.info("Not needed and left out: %s.", ", ".join(sorted(ignored)))
    return values


def _refuse(faults: Mapping[str, list[str]]) -> None:
    told = []
    for kind, items in faults.items():
        if items:
            more = f" and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
            told.append(f"{len(items)} {kind}: {', '.join(items[:_MAX_LISTED])}{more}")
    if told:
        raise invalid(
            "The arrays must be all of one known network's. Faults: " + "; ".join(told) + ".",
            hint="Check --source, and that the file is whole. Nothing was written.",
        )
