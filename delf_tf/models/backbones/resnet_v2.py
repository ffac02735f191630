"""ResNet-50 v2 (He et al., ECCV 2016) as TF-slim has it, its normalisation folded, to stage 4."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from delf_tf.models.backbones.backbone import Backbone
from delf_tf.models.geometry import Window
from delf_tf.models.layers import build_maps, pad_symmetric, register

UNITS = (3, 4, 6)
LEVELS = ("stride4", "stride8", "stride16")
STEM_CHANNELS = 64


@register
class FoldedConv(tf.keras.layers.Layer):
    """A convolution with bias, padded by kernel_size // 2 on every side, then ReLU if asked for.

    Args:
      filters: output channels.
      kernel_size: side of the square kernel, odd.
      stride: step in both axes.
      relu: whether ReLU follows.

    Input shape: [B, H, W, C]. Output shape: [B, H', W', filters].
    """

    def __init__(
        self, filters: int, kernel_size: int = 1, stride: int = 1, relu: bool = False, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self._margin, self._relu = kernel_size // 2, relu
        self.conv = tf.keras.layers.Conv2D(
            filters, kernel_size, stride, padding="valid", kernel_initializer="zeros"
        )

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        build_maps([(self.conv, input_shape[-1])])
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """See the class."""
        if self._margin:
            x = pad_symmetric(x, self._margin)
        x = self.conv(x)
        return tf.nn.relu(x) if self._relu else x


@register
class PreactivationUnit(tf.keras.layers.Layer):
    """Scale, shift and ReLU; then 1x1, 3x3 and 1x1 convolutions added to a shortcut.

    A unit that steps takes its stride in the 3x3 convolution, and subsamples its shortcut.

    Args:
      width: channels of the first two convolutions; the output has four times as many.
      stride: 1 or 2.
      project: whether the shortcut is a 1x1 convolution of the pre-activated input.

    Input shape: [B, H, W, C]. Output shape: [B, ceil(H / stride), ceil(W / stride), 4 * width].
    """

    def __init__(self, width: int, stride: int, project: bool, **kwargs: Any):
        super().__init__(**kwargs)
        self._width, self._step = width, stride
        self.conv1 = FoldedConv(width, relu=True)
        self.conv2 = FoldedConv(width, 3, stride, relu=True)
        self.conv3 = FoldedConv(4 * width)
        self.shortcut = FoldedConv(4 * width) if project else None

    def build(self, input_shape: Any) -> None:
        """Makes `gamma` and `beta` [C] of the pre-activation, and the layers' variables."""
        channels, width = input_shape[-1], self._width
        self.gamma = self.add_weight(name="gamma", shape=(channels,), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(channels,), initializer="zeros")
        build_maps([(self.conv1, channels), (self.conv2, width), (self.conv3, width)])
        if self.shortcut is not None:
            build_maps([(self.shortcut, channels)])
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """See the class."""
        active = tf.nn.relu(x * tf.cast(self.gamma, x.dtype) + tf.cast(self.beta, x.dtype))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        branch = self.conv3(self.conv2(self.conv1(active)))
        return shortcut[:, :: self._step, :: self._step] + branch


@register
class ResNetV2(Backbone):
    """Stages 2 to 4 of ResNet-50 v2, the network that the first DELF was trained from.

    Convolutions have biases instead of batch normalisation, as in the published inference
    graphs. The step of stages 2 and 3 is in their last unit; stage 4 takes none, so its map has
    stride 16.

    Input shape: [B, H, W, 3], preprocessed. Output: {"stride4": [B, H/4, W/4, 256], "stride8": 512
    channels, "stride16": 1024}, each after ReLU.
    """

    levels = LEVELS

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.stem = FoldedConv(STEM_CHANNELS, 7, 2)
        for stage, units in enumerate(UNITS):
            for index in range(units):
                unit = PreactivationUnit(64 << stage, self._stride(stage, index), not index)
                setattr(self, f"stage{stage + 2}_unit{index + 1}", unit)

    @staticmethod
    def _stride(stage: int, index: int) -> int:
        """Stages 2 and 3 step in their last unit."""
        return 2 if stage < len(UNITS) - 1 and index == UNITS[stage] - 1 else 1

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        build_maps([(self.stem, input_shape[-1])])
        channels = STEM_CHANNELS
        for stage, units in enumerate(UNITS):
            for index in range(units):
                build_maps([(getattr(self, f"stage{stage + 2}_unit{index + 1}"), channels)])
                channels = 256 << stage
        super().build(input_shape)

    def channels(self, level: str) -> int:
        """Returns the channels of the map called `level`."""
        return 256 << LEVELS.index(level)

    def windows(self, level: str) -> list[Window]:
        """Returns the windows from the image to the map called `level`, those that step."""
        chain = [Window(7, 2, "symmetric"), Window(3, 2, "symmetric")]
        return chain + [Window(3, 2, "symmetric")] * LEVELS.index(level)

    def call(
        self, x: tf.Tensor, training: bool = False, last: str | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns the maps up to and including `last`; `training` changes nothing."""
        del training
        # No ReLU before the pooling here: the margin must lose against every value.
        x = pad_symmetric(self.stem(x), 1, value=float("-inf"))
        x = tf.nn.max_pool2d(x, 3, 2, "VALID")
        maps = {}
        for stage, (level, units) in enumerate(zip(LEVELS, UNITS)):
            for index in range(units):
                if self._stride(stage, index) == 2:
                    break
                x = getattr(self, f"stage{stage + 2}_unit{index + 1}")(x)
            maps[level] = tf.nn.relu(x)
            if level == last or level == LEVELS[-1]:
                return maps
            x = getattr(self, f"stage{stage + 2}_unit{units}")(x)
        return maps
