"""Sizes: the one resize before extraction, the image pyramid, and the way back to pixels.

Facts of the original DELF, kept so that its numbers come back: sizes round half to even, the
resize to the size limit is Pillow's antialiased bilinear, the pyramid is bilinear without
antialiasing and every scale is made from the limited image, not from the scale before it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image


def limited_size(
    height: int, width: int, *, max_side: int = -1, min_side: int = -1, square: bool = False
) -> tuple[int, int]:
    """Returns the (height, width) that an image is resized to before extraction.

    Args:
      height: pixels.
      width: pixels.
      max_side: a longer image shrinks until its longer side is this; -1 for no limit.
      min_side: an image whose longer side is below this grows to it; -1 for never.
      square: stretch to a square of the longer side.

    Returns:
      Whole pixels, at least 1.
    """
    longer = max(height, width)
    factor = 1.0
    if max_side >= 0 and longer > max_side:
        factor = max_side / longer
    elif min_side >= 0 and longer < min_side:
        factor = min_side / longer
    sides = (longer, longer) if square else (height, width)
    return max(1, round(sides[0] * factor)), max(1, round(sides[1] * factor))


def resize_to_limit(
    image: np.ndarray, *, max_side: int = -1, min_side: int = -1, square: bool = False
) -> np.ndarray:
    """Resizes a uint8 RGB image [H, W, 3] to `limited_size`; returns it as it is if it fits."""
    height, width = image.shape[:2]
    size = limited_size(height, width, max_side=max_side, min_side=min_side, square=square)
    if size == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Returns (height, width) of the pyramid level `scale` of an image of `size`."""
    height, width = (max(1, int(np.round(np.float32(side) * np.float32(scale)))) for side in size)
    return height, width


def to_larger_pixels(
    locations: np.ndarray, size: tuple[int, int], full_size: tuple[int, int]
) -> np.ndarray:
    """Maps locations in an image to the image that it was resized from.

    Pixel centres are at whole numbers, so edges, at minus one half, map to edges.

    Args:
      locations: float32 [N, 2], (y, x) pixels of the image of `size`.
      size: (height, width) after resizing.
      full_size: (height, width) before.

    Returns:
      float32 [N, 2], (y, x) pixels of the image of `full_size`.
    """
    factor = np.asarray(full_size, np.float32) / np.asarray(size, np.float32)
    return ((locations + 0.5) * factor - 0.5).astype(np.float32)
