"""What learned similarities share in NumPy: layers whose arrays are looked up by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from delf_tf.checks import require

# No network is larger; a weights file from a stranger must not make one fill the memory.
_MAX_COUNT = 65_536

Shapes = dict[str, tuple[int, ...]]


class Layers:
    """Linear layers and layer normalisations of a weights file.

    Attributes:
      arrays: float32, by the layer's name and the array's.
      descriptor_dim: D of the local features.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], descriptor_dim: int):
        self.arrays, self.descriptor_dim = arrays, descriptor_dim

    def dense(self, layer: str, x: np.ndarray) -> np.ndarray:
        """Returns what a linear layer makes of [..., C]."""
        return x @ self.arrays[f"{layer}.kernel"] + self.arrays[f"{layer}.bias"]

    def norm(self, layer: str, x: np.ndarray) -> np.ndarray:
        """Returns what a layer normalisation makes of [..., C]."""
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt(variance + 1e-5)
        return scaled * self.arrays[f"{layer}.gamma"] + self.arrays[f"{layer}.beta"]


def shapes_of(dense: Mapping[str, tuple[int, int]], norms: Mapping[str, int]) -> Shapes:
    """Returns the shapes of the arrays of linear layers (inputs, outputs) and normalisations."""
    shapes: Shapes = {}
    for name, shape in dense.items():
        shapes |= {f"{name}.kernel": shape, f"{name}.bias": shape[1:]}
    for name, size in norms.items():
        shapes |= {f"{name}.gamma": (size,), f"{name}.beta": (size,)}
    return shapes


def check_counts(least: int = 1, most: int = _MAX_COUNT, **counts: Any) -> None:
    """Raises InputError unless all are whole numbers of a sane size."""
    for name, count in counts.items():
        require(
            isinstance(count, int) and least <= count <= most,
            f"{name} must be a whole number from {least} to {most}.",
            **{name: count},
        )


def unit(x: np.ndarray) -> np.ndarray:
    """Returns rows [..., C] scaled to unit length; zeros stay zeros."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def gelu(x: np.ndarray) -> np.ndarray:
    """Returns x · Φ(x)."""
    from scipy.special import erf  # noqa: PLC0415 - slow to import

    return x * (1 + erf(x * np.float32(np.sqrt(0.5)))) / 2
