"""`create_model`: a network by name, with random weights or those of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.models.registry import arguments, build, default_option
from delf_tf.models.retrieval_model import FREE_OPTIONS, RetrievalModel
from delf_tf.models.zoo import checkpoint, conversion, foreign_files, published, sources


def create_model(
    name: str, weights: StrPath | None = None, seed: int | None = None, **kwargs: Any
) -> RetrievalModel:
    """Makes a network, with random weights or those of a file.

    Args:
      name: see `registry.build`.
      weights: a weights file of ours, or one of another program, if the names of its arrays show
        which (`convert_weights` lists them); the name of one in the package (shipped.SHIPPED), or
        of a published checkpoint (published.PUBLISHED), downloaded and converted once. It brings
        the options and the preprocessing that it was made with; a keyword argument that contradicts
        them is refused. Or "imagenet": the backbone's weights from tf.keras.applications,
        downloaded once; the rest is drawn from `seed`.
      seed: of random weights, the same on every TensorFlow; None draws one.
      **kwargs: options of the model; None keeps the model's own default, which follows the paper.

    Returns:
      A built model: `model(images)` takes [B, H, W, 3] float32 RGB in 0..255 (see
      RetrievalModel.call).

    Raises:
      InputError: unknown name, an option that the model does not take or may not have, a weights
        file that is damaged, of another model or of other options, or a failed download.
    """
    stored = read_model(name, weights, seed, **kwargs)
    if stored is not None:
        options, arrays = stored
        # The values drawn are replaced at once.
        model = build(seed=0, **options)
        checkpoint.assign(model, arrays, weights)
        return model
    if weights is None:
        return build(name, seed, **kwargs)
    if _is_imagenet(weights):
        model = build(name, seed, **published.imagenet_options(name, kwargs))
        published.load_imagenet(model)
        return model
    return _convert(name, kwargs, _weights_path(weights))


def read_model(
    name: str, weights: StrPath | None = None, seed: int | None = None, **kwargs: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Reads what `create_model` would make, without making it.

    Args:
      name: see `create_model`.
      weights: likewise.
      seed: likewise; of no effect.
      **kwargs: likewise.

    Returns:
      Arguments of `registry.construct`, and the weights by variable path, not yet compared with
      the model's; None where the weights are no file of ours.

    Raises:
      InputError: see `create_model`.
    """
    del seed
    if weights is None or _is_imagenet(weights):
        return None
    path = _weights_path(weights)
    if not checkpoint.is_weights_file(path):
        return None
    stored, arrays = checkpoint.read_weights(path)
    return _agreed(name, kwargs, stored, path), arrays


def _is_imagenet(weights: StrPath) -> bool:
    return str(weights) == published.IMAGENET and not Path(weights).is_file()


def _convert(name: str, kwargs: dict[str, Any], path: Path) -> RetrievalModel:
    arrays = foreign_files.read_arrays(path)
    source = sources.recognize(arrays)
    if source is None:
        raise checkpoint.not_ours(path)
    logging.info("Converting %s from %s; convert_weights keeps the result.", path, source)
    known, options = sources.describe_arrays(source, arrays)
    stored = {"name": known, "kwargs": options, "preprocessing": options.get("preprocessing")}
    agreed = _agreed(name, kwargs, stored, path)
    del agreed["name"]
    return conversion.convert_arrays(source, arrays, **agreed)


def _weights_path(weights: StrPath) -> Path:
    """Returns the file that `weights` names; what is published is downloaded once."""
    path = Path(weights) if Path(weights).is_file() else Path(published.fetch(str(weights)))
    require(
        path.is_file(),
        "weights must be a file that exists.",
        hint="Convert foreign weights with `delf_tf convert_weights`.",
        weights=weights,
    )
    return path


def _agreed(
    name: str, kwargs: dict[str, Any], stored: dict[str, Any], path: StrPath
) -> dict[str, Any]:
    """Returns the arguments of `build` that a file gives, and those of `kwargs` that may differ."""
    require(
        stored["name"] == name,
        f"weights must be of a {name}.",
        hint=f"Use the model {stored['name']}, or other weights.",
        weights=path,
        model=stored["name"],
    )
    options = arguments(stored)
    for key, value in kwargs.items():
        if value is None or key in FREE_OPTIONS:
            continue
        known = options.get(key, default_option(name, key))
        require(
            known == value,
            f"{key} must agree with the weights, which were made with {known!r}.",
            hint="Leave it out.",
            weights=path,
            **{key: value},
        )
    free = {key: kwargs[key] for key in FREE_OPTIONS if kwargs.get(key) is not None}
    return {**options, **free}
