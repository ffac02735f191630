"""Sizes: the one resize before extraction, the image pyramid, and the way back to pixels.

Facts of the original DELF, kept so that its numbers come back: sizes round half to even, the
resize to the size limit is Pillow's antialiased bilinear, the pyramid is bilinear without
antialiasing and every scale is made from the limited image, not from the scale before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from delf_tf.checks import require_choice

# Pillow's antialiased filters by the name that tf.image.resize gives them, too.
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "lanczos3": Image.Resampling.LANCZOS}


def limited_size(
    height: int,
    width: int,
    *,
    max_side: int = -1,
    min_side: int = -1,
    square: bool = False,
    multiple: int = 1,
) -> tuple[int, int]:
    """Returns the (height, width) that an image is resized to before extraction.

    Args:
      height: pixels.
      width: pixels.
      max_side: a longer image shrinks until its longer side is this; -1 for no limit.
      min_side: an image whose longer side is below this grows to it; -1 for never.
      square: stretch to a square of the longer side.
      multiple: both sides become the nearest multiple of this, at least one, such as a network's
        stride: what a map's last cells see is then never padding in part.

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
    height, width = (multiple * max(1, round(side * factor / multiple)) for side in sides)
    return height, width


def resize_to_limit(
    image: np.ndarray, *, resize_filter: str = "bilinear", **limits: Any
) -> np.ndarray:
    """Resizes a uint8 RGB image [H, W, 3] to `limited_size`; returns it as it is if it fits.

    Args:
      image: uint8 [H, W, 3].
      resize_filter: a name of FILTERS; Lanczos' keeps more of the detail of a shrunken photograph.
      **limits: of `limited_size`.
    """
    require_choice("resize_filter", resize_filter, FILTERS)
    height, width = limited_size(*image.shape[:2], **limits)
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), FILTERS[resize_filter]))


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
