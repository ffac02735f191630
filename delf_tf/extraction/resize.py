"""The levels of an image pyramid without TensorFlow, equal to levels.pyramid_level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

# Of each pixel along an axis: the two that it lies between, and how far along.
Taps = tuple[np.ndarray, np.ndarray, np.ndarray]


def pyramid_level(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns images resized, bilinear without antialiasing.

    Args:
      images: uint8 [B, H, W, 3].
      size: (h, w).

    Returns:
      float32 [B, h, w, 3], 0..255.
    """
    if images.shape[1:3] == tuple(size):
        return images.astype(np.float32)
    axes = [_taps(old, new) for old, new in zip(images.shape[1:3], size)]
    levels = np.empty((len(images), *size, 3), np.float32)
    for image, level in zip(np.ascontiguousarray(images), levels):
        _resize(image, axes[0], axes[1], level)
    return levels


def _taps(old: int, new: int) -> Taps:
    """Returns, for each of `new` pixels, the two of `old` it lies between, and how far along."""
    places = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new)
    places -= np.float32(0.5)
    below = np.floor(places)
    first = np.maximum(below, 0).astype(np.int64)
    second = np.minimum(below + 1, old - 1).astype(np.int64)
    return first, second, places - below


def _compiled(function: Callable[..., Any]) -> Any:
    try:
        return numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # Numba found no folder to write to: compile anew in each process.
        return numba.njit(function, nogil=True)


def _blend(image: np.ndarray, rows: Taps, columns: Taps, level: np.ndarray) -> None:
    top, bottom, down = rows
    left, right, along = columns
    width = image.shape[1]
    row = np.empty((width, 3), np.float32)
    for y in range(len(top)):
        above, below, share = image[top[y]], image[bottom[y]], down[y]
        for x in range(width):
            for c in range(3):
                value = np.float32(above[x, c])
                row[x, c] = value + (np.float32(below[x, c]) - value) * share
        for x in range(len(left)):
            for c in range(3):
                value = row[left[x], c]
                level[y, x, c] = value + (row[right[x], c] - value) * along[x]


_resize = _compiled(_blend)
