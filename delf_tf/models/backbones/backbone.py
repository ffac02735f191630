"""The base of backbones, and the rule by which they change their width."""

from __future__ import annotations

import tensorflow as tf

from delf_tf.checks import require
from delf_tf.models.geometry import CellGrid, Window, cell_grid


class Backbone(tf.keras.layers.Layer):
    """A layer that turns preprocessed images into maps, named by their stride.

    "stride16" is the map whose cells are 16 pixels apart. A subclass defines `levels`, `channels`,
    `windows` or `grid`, and `call(x, training, last) -> {level: map}`, which computes the maps up
    to and including `last`.

    Attributes:
      levels: the names of the maps, finest first.
      pads_with_zeros: whether the maps depend on what lies around an image as on zeros, which
        `masking` needs: every layer pads symmetrically and rounds sizes up. "same" and "valid"
        padding depend on the size.
    """

    levels: tuple[str, ...] = ()
    pads_with_zeros = False

    def channels(self, level: str) -> int:
        """Returns the channels of the map called `level`."""
        raise NotImplementedError

    def windows(self, level: str) -> list[Window]:
        """Returns the windows from the image to the map called `level`, those that step."""
        raise NotImplementedError

    def grid(self, level: str, size: int) -> CellGrid:
        """Returns where the cells of `level` lie along an axis of `size` pixels."""
        return cell_grid(self.windows(level), size)


def scale_channels(channels: int, width_multiplier: float) -> int:
    """Returns the multiple of 8 nearest to `channels * width_multiplier`, at least 8.

    Rounding down never takes more than a tenth (MobileNetV2's rule).

    Raises:
      InputError: a multiplier outside (0, 4].
    """
    require(
        0 < width_multiplier <= 4,
        "width_multiplier must be in (0, 4].",
        width_multiplier=width_multiplier,
    )
    wanted = channels * width_multiplier
    scaled = max(8, int(wanted + 4) // 8 * 8)
    return scaled if scaled >= 0.9 * wanted else scaled + 8
