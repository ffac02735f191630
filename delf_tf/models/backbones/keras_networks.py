"""Any network of tf.keras.applications as a backbone: its strides and centres are found."""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from delf_tf.checks import require, require_choice
from delf_tf.models.backbones.backbone import Backbone
from delf_tf.models.geometry import CellGrid, Window, window_padding
from delf_tf.models.layers import register

# Two sizes whose maps differ by (difference / stride) cells, whatever the padding.
_PROBE_SIZES = (256, 512)


def list_networks() -> list[str]:
    """Returns the names of the networks in tf.keras.applications."""
    names = vars(tf.keras.applications).items()
    return sorted(name for name, made in names if name[0].isupper() and callable(made))


def published_preprocessing(name: str) -> dict[str, Any]:
    """Returns the arguments of layers.Preprocessing that the network's published weights expect.

    They are read off the network's own `preprocess_input`, which is affine in every pixel.
    """
    network = getattr(tf.keras.applications, name)
    preprocess = sys.modules[network.__module__].preprocess_input
    black = np.asarray(preprocess(np.zeros((1, 1, 1, 3), np.float32))).ravel()
    red = np.array([255, 0, 0], np.float32).reshape(1, 1, 1, 3)
    white = np.asarray(preprocess(np.full((1, 1, 1, 3), 255, np.float32))).ravel()
    moved = np.abs(np.asarray(preprocess(red)).ravel() - black)
    std = 255.0 / (white.astype(np.float64) - black)
    return {
        "channel_order": "RGB" if moved.argmax() == 0 else "BGR",
        "mean": [round(float(value), 4) for value in -black * std],
        "std": [round(float(value), 4) for value in std],
    }


@register
class KerasNetwork(Backbone):
    """A network of tf.keras.applications without its top.

    The map of a stride is the last one of that stride, before the network steps on.

    Args:
      network_name: one of list_networks().
      last: the deepest level that is used: "stride16" or "stride32".

    Input shape: [B, H, W, 3], preprocessed as its weights expect. Output: {"stride4": ..., ...}.
    """

    def __init__(self, network_name: str, last: str = "stride32", **kwargs: Any):
        super().__init__(**kwargs)
        require_choice("network", network_name, list_networks())
        self.network_name, self.last = network_name, last
        make = getattr(tf.keras.applications, network_name)
        self.network = make(include_top=False, weights=None, input_shape=(None, None, 3))
        self._tensors = find_levels(self.network)
        for level in ("stride16", last):
            require(
                level in self._tensors,
                f"A backbone must have a map of {level}.",
                network=network_name,
                found=list(self._tensors),
            )
        for level, tensors in self._prefixes():
            # Private: these hold the layers of `network` once more.
            setattr(self, f"_to_{level}", tf.keras.Model(self.network.inputs, tensors))

    def _prefixes(self) -> list[tuple[str, list[Any]]]:
        return [
            (level, [self._tensors[name] for name in self.levels[: index + 1]])
            for index, level in enumerate(self.levels)
        ]

    def build(self, input_shape: Any) -> None:
        """The network is made with its variables."""
        super().build(input_shape)

    @property
    def levels(self) -> tuple[str, ...]:
        """The names of the maps, finest first."""
        deepest = int(self.last[len("stride") :])
        strides = sorted(int(name[len("stride") :]) for name in self._tensors)
        return tuple(f"stride{stride}" for stride in strides if stride <= deepest)

    def channels(self, level: str) -> int:
        """Returns the channels of the map called `level`."""
        return int(self._tensors[level].shape[-1])

    def grid(self, level: str, size: int) -> CellGrid:
        """Returns where the cells of `level` lie along an axis of `size` pixels."""
        support = trace_support(self.network, size)[_producer(self._tensors[level])]
        return CellGrid(support.stride, (support.first + support.last) / 2, support.num_cells)

    def call(
        self, x: tf.Tensor, training: bool = False, last: str | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns the maps up to and including `last`; later layers are not computed."""
        last = last or self.last
        maps = getattr(self, f"_to_{last}")(x, training=training)
        maps = maps if isinstance(maps, (list, tuple)) else [maps]
        return dict(zip(self.levels, maps))


def find_levels(network: tf.keras.Model) -> dict[str, Any]:
    """Returns the last map of every stride that is a power of two, {"stride4": tensor, ...}.

    Strides are measured: two input sizes give maps that differ by (difference / stride) cells.
    """
    layers = [layer for layer in network.layers if _gives_map(layer)]
    probe = tf.function(tf.keras.Model(network.inputs, [layer.output for layer in layers]))
    sizes = []
    for size in _PROBE_SIZES:
        concrete = probe.get_concrete_function(tf.TensorSpec([1, size, size, 3], tf.float32))
        sizes.append([int(shape[1]) for shape in concrete.output_shapes])
    levels = {}
    for layer, small, large in zip(layers, *sizes):
        cells = large - small
        if cells > 0:
            stride = (_PROBE_SIZES[1] - _PROBE_SIZES[0]) / cells
            if stride > 1 and math.log2(stride).is_integer():
                levels[f"stride{int(stride)}"] = layer.output
    return levels


def _gives_map(layer: tf.keras.layers.Layer) -> bool:
    """Whether a layer's output is one map, and not merely a padded one."""
    padded = isinstance(layer, (tf.keras.layers.ZeroPadding2D, tf.keras.layers.InputLayer))
    output = getattr(layer, "output", None)
    return not padded and hasattr(output, "shape") and len(output.shape) == 4


def _producer(tensor: Any) -> int:
    """The identity of the layer that gives a symbolic tensor; Keras 3 calls it operation."""
    return id(tensor._keras_history[0])


class Support(NamedTuple):
    """What cells of a map see along one axis; cell i sees [first, last] + stride * i.

    Attributes:
      stride: distance of neighbouring cells, input pixels.
      first: first pixel that cell 0 sees; negative in the padding.
      last: last pixel that cell 0 sees.
      num_cells: length of the map.
    """

    stride: int
    first: float
    last: float
    num_cells: int


def trace_support(network: tf.keras.Model, size: int) -> dict[int, Support | None]:
    """Returns what the cells of every layer's map see, keyed by the layer's id.

    Branches that see the whole image (squeeze and excitation) have None and do not count.

    Args:
      network: a graph of layers in which none is used twice.
      size: input pixels along the axis.
    """
    supports: dict[int, Support | None] = {}
    for layer in network.layers:
        inputs = tf.nest.flatten(layer.input)
        if isinstance(layer, tf.keras.layers.InputLayer):
            supports[id(layer)] = Support(1, 0.0, 0.0, size)
        else:
            seen = [supports.get(_producer(tensor)) for tensor in inputs]
            supports[id(layer)] = _through(layer, _union(seen))
    return supports


def _union(supports: list[Support | None]) -> Support | None:
    seen = [support for support in supports if support is not None]
    if not seen:
        return None
    first = min(support.first for support in seen)
    last = max(support.last for support in seen)
    return seen[0]._replace(first=first, last=last)


def _through(layer: tf.keras.layers.Layer, support: Support | None) -> Support | None:
    """What the cells of a layer's output see."""
    if support is None or "Global" in type(layer).__name__:
        return None
    if hasattr(layer, "layers"):
        for inner in layer.layers:
            support = _through(inner, support)
        return support
    if isinstance(layer, (tf.keras.layers.ZeroPadding2D, tf.keras.layers.Cropping2D)):
        sign = 1 if isinstance(layer, tf.keras.layers.ZeroPadding2D) else -1
        before, after = layer.get_config().get("padding", layer.get_config().get("cropping"))[0]
        return _shifted(support, sign * before, sign * after)
    window = _window(layer)
    return support if window is None else _slid(support, window)


def _window(layer: tf.keras.layers.Layer) -> Window | None:
    """The layer's window along the first axis; None for a layer that works on every cell alone."""
    kernel = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    if kernel is None:
        return None
    dilation = (getattr(layer, "dilation_rate", None) or (1, 1))[0]
    return Window((kernel[0] - 1) * dilation + 1, layer.strides[0], layer.padding)


def _shifted(support: Support, before: int, after: int) -> Support:
    shift = support.stride * before
    cells = support.num_cells + before + after
    return Support(support.stride, support.first - shift, support.last - shift, cells)


def _slid(support: Support, window: Window) -> Support:
    before, after = window_padding(window, support.num_cells)
    reach = window.kernel - 1 - before
    return Support(
        support.stride * window.stride,
        support.first - support.stride * before,
        support.last + support.stride * reach,
        max(0, (support.num_cells + before + after - window.kernel) // window.stride + 1),
    )
