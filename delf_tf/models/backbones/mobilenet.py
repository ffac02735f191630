"""MobileNetV2 (Sandler et al., CVPR 2018) with symmetric padding."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from delf_tf.checks import require, require_choice
from delf_tf.models.backbones.resnet import scale_channels
from delf_tf.models.geometry import CellGrid, Window, cell_grid
from delf_tf.models.layers import ConvNorm, build_maps, register

# Table 2 of the paper: expansion factor, output channels, repeats, stride of the first.
SETTINGS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LEVELS = ("stride2", "stride4", "stride8", "stride16", "stride32")
NORM = {"epsilon": 1e-5, "momentum": 0.9}


def block_settings(width_multiplier: float) -> list[tuple[int, int, int]]:
    """Returns (expansion factor, output channels, stride) of the 17 blocks in order."""
    return [
        (expansion, scale_channels(channels, width_multiplier), 1 if repeat else stride)
        for expansion, channels, repeats, stride in SETTINGS
        for repeat in range(repeats)
    ]


@register
class InvertedResidual(tf.keras.layers.Layer):
    """1x1 expansion, 3x3 depthwise convolution and linear 1x1 projection.

    Args:
      expanded: channels between expansion and projection.
      channels: output channels.
      stride: 1 or 2.
      residual: whether the input is added to the output.

    Input shape: [B, H, W, C]. Outputs: [B, H', W', channels], and the expansion's own output
    [B, H, W, expanded] after ReLU6.
    """

    def __init__(self, expanded: int, channels: int, stride: int, residual: bool, **kwargs: Any):
        super().__init__(**kwargs)
        self._arguments = (expanded, channels, stride, residual)
        self.residual = residual
        self.expand = ConvNorm(expanded, activation="relu6", **NORM)
        self.depthwise = ConvNorm(0, 3, stride, activation="relu6", **NORM)
        self.project = ConvNorm(channels, **NORM)

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        expanded = self._arguments[0]
        build_maps([(self.expand, input_shape[-1])])
        build_maps([(self.depthwise, expanded), (self.project, expanded)])
        super().build(input_shape)

    def call(self, x: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """See the class."""
        expanded = self.expand(x, training=training)
        out = self.project(self.depthwise(expanded, training=training), training=training)
        return (x + out if self.residual else out), expanded

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = ("expanded", "channels", "stride", "residual")
        return {**super().get_config(), **dict(zip(names, self._arguments))}


@register
class MobileNetV2(tf.keras.layers.Layer):
    """The convolutional part of MobileNetV2.

    The map of a stride is the richest one there: the expansion of the block that steps on, after
    ReLU6 (stride 16: 576 channels), and at stride 32 the last 1x1 convolution (1280 channels).

    Args:
      width_multiplier: multiplies all channels (then made multiples of 8); the last convolution
        never has fewer than 1280.
      last: the deepest level that is made.

    Input shape: [B, H, W, 3], preprocessed. Output: {"stride2": [B, H/2, W/2, 96], "stride4": 144
    channels, "stride8": 192, "stride16": 576, "stride32": 1280}.
    """

    def __init__(self, width_multiplier: float = 1.0, last: str = "stride32", **kwargs: Any):
        super().__init__(**kwargs)
        require_choice("last", last, LEVELS)
        require(
            0 < width_multiplier <= 4,
            "width_multiplier must be in (0, 4].",
            width_multiplier=width_multiplier,
        )
        self.width_multiplier, self.last = float(width_multiplier), last
        stem = scale_channels(32, width_multiplier)
        self.stem = ConvNorm(stem, 3, 2, activation="relu6", **NORM)
        channels = stem
        for index, (expansion, out, stride) in enumerate(self._made_blocks()):
            block = InvertedResidual(
                channels * expansion, out, stride, residual=stride == 1 and channels == out
            )
            setattr(self, f"block{index}", block)
            channels = out
        if last == "stride32":
            self.head = ConvNorm(self.channels("stride32"), activation="relu6", **NORM)

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        build_maps([(self.stem, input_shape[-1])])
        channels = scale_channels(32, self.width_multiplier)
        for index, (_, out, _) in enumerate(self._made_blocks()):
            build_maps([(getattr(self, f"block{index}"), channels)])
            channels = out
        if self.last == "stride32":
            build_maps([(self.head, channels)])
        super().build(input_shape)

    def _made_blocks(self) -> list[tuple[int, int, int]]:
        """The blocks up to the one whose expansion is the deepest map."""
        blocks = block_settings(self.width_multiplier)
        if self.last == "stride32":
            return blocks
        steps = [index for index, block in enumerate(blocks) if block[2] == 2]
        return blocks[: steps[LEVELS.index(self.last)] + 1]

    @property
    def levels(self) -> tuple[str, ...]:
        """The names of the maps, finest first."""
        return LEVELS[: LEVELS.index(self.last) + 1]

    def channels(self, level: str) -> int:
        """Returns the channels of the map called `level`."""
        if level == "stride32":
            return max(1280, scale_channels(1280, self.width_multiplier))
        blocks = block_settings(self.width_multiplier)
        steps = [index for index, block in enumerate(blocks) if block[2] == 2]
        step = steps[LEVELS.index(level)]
        return blocks[step - 1][1] * blocks[step][0]

    def grid(self, level: str, size: int) -> CellGrid:
        """Returns where the cells of `level` lie along an axis of `size` pixels."""
        return cell_grid(self.windows(level), size)

    def windows(self, level: str) -> list[Window]:
        """Returns the windows from the image to the map called `level`, those that step."""
        return [Window(3, 2, "symmetric")] * (LEVELS.index(level) + 1)

    def call(
        self, x: tf.Tensor, training: bool = False, last: str | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns the maps up to and including `last`; later blocks are not computed."""
        last = last or self.last
        x = self.stem(x, training=training)
        maps: dict[str, tf.Tensor] = {}
        for index, (_, _, stride) in enumerate(self._made_blocks()):
            block = getattr(self, f"block{index}")
            if stride == 2 and LEVELS[len(maps)] == last:
                maps[last] = block.expand(x, training=training)
                return maps
            x, expanded = block(x, training=training)
            if stride == 2:
                maps[LEVELS[len(maps)]] = expanded
        maps["stride32"] = self.head(x, training=training)
        return maps

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "width_multiplier": self.width_multiplier,
            "last": self.last,
        }
