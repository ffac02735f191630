"""Variables by attribute path: equal names on Keras 2 and 3, and seeded initial values by name."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from delf_tf.checks import require

# Keras 2 and 3 call a depthwise kernel differently.
_LEAF_NAMES = {"depthwise_kernel": "kernel"}
# Variables that begin standard normal.
_NORMAL = ("templates", "token")


def variables_by_path(model: tf.keras.layers.Layer) -> dict[str, Any]:
    """Returns every weight of `model` keyed by the attributes that lead to it.

    For instance "backbone.stage3_block1.conv2.norm.gamma". Keras' own variable names are neither
    unique nor the same in Keras 2 and 3; attribute names are ours.

    Args:
      model: a built layer or model; every layer is held by an attribute of its own.

    Returns:
      Path -> variable, sorted by path.

    Raises:
      InputError: two variables share a path, or a weight is reached by no attribute.
    """
    found: dict[str, Any] = {}
    for path, variable in _walk(model, "", set()):
        require(path not in found, "Variable paths must be unique.", path=path)
        found[path] = variable
    reached = {id(variable) for variable in found.values()}
    lost = [variable.name for variable in model.weights if id(variable) not in reached]
    require(not lost, "Every weight must be reached by attributes that hold layers.", weights=lost)
    return dict(sorted(found.items()))


def draw_values(model: tf.keras.layers.Layer, seed: int | None) -> None:
    """Sets the random variables of a built model from `seed` alone.

    Each value depends on the seed and the variable's path, not on the order of creation, the
    TensorFlow version or any global generator. Kernels get He et al.'s (ICCV 2015) variance
    2 / fan-in, uniformly; `templates` and `token` a standard normal. Others keep what their layer
    gave them.

    Args:
      model: built.
      seed: an int; None draws one from the system.
    """
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    for path, variable in variables_by_path(model).items():
        leaf = path.rsplit(".", 1)[-1]
        if leaf in ("kernel", *_NORMAL):
            random = np.random.RandomState(zlib.crc32(f"{seed}/{path}".encode()))
            variable.assign(_draw(leaf, tuple(variable.shape), random))


def _draw(leaf: str, shape: tuple[int, ...], random: np.random.RandomState) -> np.ndarray:
    if leaf in _NORMAL:
        return random.standard_normal(shape).astype(np.float32)
    # A depthwise kernel [K, K, C, 1] is recognised by its last axis: each output sees one channel.
    depthwise = len(shape) == 4 and shape[-1] == 1 and shape[0] > 1
    fan_in = np.prod(shape[:2]) if depthwise else np.prod(shape[:-1])
    bound = np.sqrt(6.0 / max(1, fan_in))
    return ((random.random_sample(shape) * 2 - 1) * bound).astype(np.float32)


def _walk(layer: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yields the variables of `layer` itself, then those of the layers it holds."""
    seen.add(id(layer))
    children = dict(_children(layer))
    held = {id(v) for child in children.values() for v in child.weights}
    for variable in layer.weights:
        if id(variable) not in held and id(variable) not in seen:
            seen.add(id(variable))
            leaf = variable.name.split("/")[-1].split(":")[0]
            yield prefix + _LEAF_NAMES.get(leaf, leaf), variable
    for name, child in children.items():
        if id(child) not in seen:
            yield from _walk(child, f"{prefix}{name}.", seen)


def _children(layer: Any) -> Iterator[tuple[str, tf.keras.layers.Layer]]:
    if _is_graph(layer):
        weighted = [child for child in layer.layers if child.weights]
        for index, child in enumerate(weighted):
            yield _graph_name(child, index), child
        return
    yield from held_layers(layer)


def held_layers(layer: Any) -> Iterator[tuple[str, tf.keras.layers.Layer]]:
    """Yields the layers that are public attributes of `layer`, by name."""
    for name, value in vars(layer).items():
        if isinstance(value, tf.keras.layers.Layer) and not name.startswith("_"):
            yield name, value


def _is_graph(layer: Any) -> bool:
    """Whether `layer` is a graph of layers that have names rather than attributes."""
    return isinstance(layer, tf.keras.Model) and type(layer).__name__ in (
        "Functional",
        "Sequential",
    )


def _graph_name(layer: tf.keras.layers.Layer, index: int) -> str:
    """The layer's own name, or its place where Keras made the name from a global counter."""
    automatic = re.sub(r"(?<!^)(?=[A-Z])", "_", type(layer).__name__).lower().replace("2_d", "2d")
    if re.fullmatch(rf"{automatic}(_\d+)?", layer.name):
        return f"layer{index:03d}"
    return layer.name
