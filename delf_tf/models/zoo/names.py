"""How the names and axes of another program's arrays become ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# The last part of a foreign name -> our variable, for layers with a kernel and for normalisation.
_KERNEL_LEAVES = {
    "weight": "kernel",
    "weights": "kernel",
    "kernel": "kernel",
    "bias": "bias",
    "Conv2D_bias": "bias",
}
_NORM_LEAVES = {
    "weight": "gamma",
    "gamma": "gamma",
    "bias": "beta",
    "beta": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
    "moving_mean": "moving_mean",
    "moving_variance": "moving_variance",
    "_mean": "moving_mean",
    "_variance": "moving_variance",
}
_NORM_LAYERS = ("norm", "norm1", "norm2", "norm_inputs", "norm_templates", "norm_mlp")
# Axes of a foreign kernel in our order (height, width, in, out).
_TO_HWIO = {"OIHW": (2, 3, 1, 0), "HWIO": (0, 1, 2, 3), "OHWI": (1, 2, 3, 0)}


class Names(NamedTuple):
    """One program's names.

    Attributes:
      modules: foreign module -> path of our layer.
      block: regular expression of what precedes a module inside a repeated block, with groups
        named `stage` (optional) and `block`; empty if there is none.
      block_path: our path of a block, a format of {stage} and {block}.
      block_modules: foreign module within a block -> our layer within it.
      block_arrays: whole foreign names within a block -> our variables within it.
      first: what is added to the foreign numbers of stage and block.
      arrays: whole foreign names -> our variable paths, for what no module holds.
      ignored: regular expression of whole names that are known and not needed.
      separator: between a module and its arrays.
      kernel_axes: order of a convolution kernel's axes; a key of _TO_HWIO.
      linear_axes: "OI" or "IO".
      defaults: our variable path -> value, for what the program keeps as a constant.
    """

    modules: Mapping[str, str]
    block: str = ""
    block_path: str = ""
    block_modules: Mapping[str, str] = {}
    block_arrays: Mapping[str, str] = {}
    first: tuple[int, int] = (0, 0)
    arrays: Mapping[str, str] = {}
    ignored: str = r"(.*\.)?num_batches_tracked"
    separator: str = "."
    kernel_axes: str = "OIHW"
    linear_axes: str = "OI"
    defaults: Mapping[str, float] = {}

    def is_ignored(self, name: str) -> bool:
        """Whether `name` is known and not needed."""
        return re.fullmatch(self.ignored, name) is not None

    def path(self, name: str) -> str | None:
        """Returns the path of our variable that `name` holds, or None for an unknown name."""
        if name in self.arrays:
            return self.arrays[name]
        block = re.match(self.block, name) if self.block else None
        if block is not None:
            numbers = {key: int(value) for key, value in block.groupdict().items()}
            path = self.block_path.format(
                stage=numbers.get("stage", 0) + self.first[0],
                block=numbers["block"] + self.first[1],
            )
            within = name[block.end() :]
            layer = self.block_arrays.get(within) or self._layer(within, self.block_modules)
            return None if layer is None else f"{path}.{layer}"
        return self._layer(name, self.modules)

    def _layer(self, name: str, modules: Mapping[str, str]) -> str | None:
        for module, path in modules.items():
            if name.startswith(module + self.separator):
                is_norm = path.rsplit(".", 1)[-1] in _NORM_LAYERS
                leaf = (_NORM_LEAVES if is_norm else _KERNEL_LEAVES).get(
                    name[len(module + self.separator) :]
                )
                if leaf is not None:
                    return f"{path}.{leaf}"
        return None

    def arrange(self, array: np.ndarray, path: str, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a foreign array with our axes; of another shape than `shape` if it does not fit.

        Args:
          array: as the other program has it.
          path: of our variable.
          shape: of our variable.
        """
        if path.endswith(".kernel"):
            if array.ndim == 4:
                array = array.transpose(_TO_HWIO[self.kernel_axes])
                if ".depthwise." in path and self.kernel_axes != "HWIO":
                    array = array.swapaxes(2, 3)
            elif array.ndim == 2 and self.linear_axes == "OI":
                array = array.T
        # A 1x1 convolution for a linear layer, [1] for a scalar, a batch axis of 1.
        without_ones = tuple(axis for axis in array.shape if axis != 1)
        if without_ones == tuple(axis for axis in shape if axis != 1):
            array = array.reshape(shape)
        return array
