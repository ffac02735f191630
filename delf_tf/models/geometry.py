"""Where the cells of a feature map lie: receptive-field centres, and cells of resized images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import tensorflow as tf

from delf_tf.checks import require


class Window(NamedTuple):
    """A sliding window along one axis: a convolution or a pooling.

    Attributes:
      kernel: extent in cells of its input, dilation included.
      stride: step in cells of its input.
      padding: "symmetric" (kernel // 2 on both sides), "same" (TensorFlow's: as much as makes
        ceil(size / stride) cells, the odd one at the end) or "valid" (none).
    """

    kernel: int
    stride: int
    padding: str


class CellGrid(NamedTuple):
    """The cells of a map along one axis; cell i is centred at `offset + stride * i`.

    Attributes:
      stride: distance of neighbouring cells, input pixels.
      offset: centre of cell 0, input pixels; the centre of the first pixel is 0.
      num_cells: length of the map.
    """

    stride: int
    offset: float
    num_cells: int


def cell_grid(windows: Iterable[Window], size: int, grid: CellGrid | None = None) -> CellGrid:
    """Returns where the cells of a chain of windows lie in an input of `size` pixels.

    TensorFlow's "same" padding depends on the size of every window's input, so the offset of a
    network that uses it depends on the size of the image.

    Args:
      windows: from the image to the map; windows that neither step nor shift may be left out.
      size: input pixels along the axis, at least 1.
      grid: of the map that the chain starts from; None: the image.

    Raises:
      InputError: size below 1.
    """
    require(size >= 1, "size must be at least 1.", size=size)
    stride, offset, cells = grid or CellGrid(1, 0.0, size)
    for window in windows:
        before, after = window_padding(window, cells)
        offset += stride * ((window.kernel - 1) / 2 - before)
        stride *= window.stride
        cells = max(0, (cells + before + after - window.kernel) // window.stride + 1)
    return CellGrid(stride, offset, cells)


def window_padding(window: Window, size: int) -> tuple[int, int]:
    """Returns the cells that a window adds before and after an input of `size` cells."""
    if window.padding == "symmetric":
        return window.kernel // 2, window.kernel // 2
    if window.padding == "valid":
        return 0, 0
    cells = -(-size // window.stride)
    total = max((cells - 1) * window.stride + window.kernel - size, 0)
    return total // 2, total - total // 2


def resize_to_multiple(images: tf.Tensor, multiple: int) -> tf.Tensor:
    """Returns images [B, H, W, C] whose sides are multiples of `multiple`: the next smaller ones.

    Sides below `multiple` grow to it. Bilinear without antialiasing; what fits stays as it is.
    """
    size = images.shape[1:3]
    if size.is_fully_defined():
        wanted = [max(multiple, side // multiple * multiple) for side in size]
        if wanted == size.as_list():
            return images
    else:
        wanted = tf.maximum(multiple, tf.shape(images)[1:3] // multiple * multiple)
    return tf.image.resize(images, wanted, method="bilinear", antialias=False)


def cell_locations(inside: tf.Tensor, cell_px: int, size: tf.Tensor) -> tf.Tensor:
    """Returns where features lie in images that `resize_to_multiple` may have resized.

    Pixel centres are at whole numbers, so edges, at minus one half, map to edges.

    Args:
      inside: [B, h, w, 2], (y, x) pixels from the first pixel of a feature's cell.
      cell_px: side of a cell, pixels of the resized image, which cells cover.
      size: int32 [2], (height, width) before.

    Returns:
      float32 [B, h, w, 2], (y, x) pixels of the images of `size`.
    """
    cells = tf.shape(inside)[1:3]
    corners = tf.stack(tf.meshgrid(tf.range(cells[0]), tf.range(cells[1]), indexing="ij"), axis=-1)
    places = tf.cast(corners * cell_px, tf.float32) + tf.cast(inside, tf.float32)
    return (places + 0.5) * tf.cast(size, tf.float32) / tf.cast(cells * cell_px, tf.float32) - 0.5
