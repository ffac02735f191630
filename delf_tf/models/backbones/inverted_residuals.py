"""Networks of inverted residuals (Sandler et al., CVPR 2018): the block and the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from delf_tf.checks import require_choice
from delf_tf.models.backbones.backbone import Backbone
from delf_tf.models.backbones.chains import CHAINS, Block
from delf_tf.models.geometry import Window
from delf_tf.models.layers import ConvNorm, build_maps, register

LEVELS = ("stride2", "stride4", "stride8", "stride16", "stride32")


@register
class InvertedResidual(tf.keras.layers.Layer):
    """1x1 expansion, depthwise convolution and linear 1x1 projection.

    Args:
      expanded: channels between expansion and projection; 0 leaves the expansion out.
      channels: output channels.
      kernel_size: of the depthwise convolution.
      stride: 1 or 2.
      residual: whether the input is added to the output.
      padding: "symmetric" or "same", see ConvNorm.
      epsilon: of batch normalisation.
      momentum: of batch normalisation.

    Input shape: [B, H, W, C]. Outputs: [B, H', W', channels], and the expansion's own output
    [B, H, W, expanded] after ReLU6 (the input where there is no expansion).
    """

    def __init__(
        self,
        expanded: int,
        channels: int,
        kernel_size: int,
        stride: int,
        *,
        residual: bool,
        padding: str = "symmetric",
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self._expanded, self._residual = expanded, residual
        norm = {"epsilon": epsilon, "momentum": momentum}
        self.expand = ConvNorm(expanded, activation="relu6", **norm) if expanded else None
        self.depthwise = ConvNorm(0, kernel_size, stride, padding, activation="relu6", **norm)
        self.project = ConvNorm(channels, **norm)

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        if self.expand is not None:
            build_maps([(self.expand, input_shape[-1])])
        between = self._expanded or input_shape[-1]
        build_maps([(self.depthwise, between), (self.project, between)])
        super().build(input_shape)

    def call(self, x: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """See the class."""
        expanded = self.expanded(x, training)
        out = self.project(self.depthwise(expanded, training=training), training=training)
        return (x + out if self._residual else out), expanded

    def expanded(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns the second output of `call` alone."""
        return x if self.expand is None else self.expand(x, training=training)


@register
class InvertedResiduals(Backbone):
    """MobileNetV2 or an EfficientNet-Lite, its convolutional part.

    The map of a stride is the richest one there: the expansion of the block that steps on, after
    ReLU6, and at stride 32 the last 1x1 convolution.

    Args:
      network: a key of chains.CHAINS.
      width_multiplier: multiplies the network's channels (then made multiples of 8).
      last: the deepest level that is made.

    Input shape: [B, H, W, 3], preprocessed. Output of "mobilenet_v2": {"stride2":
    [B, H/2, W/2, 96], "stride4": 144 channels, "stride8": 192, "stride16": 576, "stride32": 1280}.
    """

    def __init__(
        self,
        network: str,
        width_multiplier: float = 1.0,
        last: str = "stride32",
        **kwargs: Any,
    ):
        require_choice("network", network, CHAINS)
        require_choice("last", last, LEVELS)
        super().__init__(**kwargs)
        chain = CHAINS[network](width_multiplier)
        self.network, self.pads_with_zeros = network, chain.padding == "symmetric"
        self._chain, self.last = chain, last
        shared = {"epsilon": chain.epsilon, "momentum": chain.momentum}
        self.stem = ConvNorm(chain.stem, 3, 2, chain.padding, activation="relu6", **shared)
        channels = chain.stem
        for index, block in enumerate(self._made_blocks()):
            layer = InvertedResidual(
                channels * block.expansion,
                block.channels,
                block.kernel_size,
                block.stride,
                residual=block.stride == 1 and channels == block.channels,
                padding=chain.padding,
                **shared,
            )
            setattr(self, f"block{index}", layer)
            channels = block.channels
        if last == "stride32":
            self.head = ConvNorm(chain.head, activation="relu6", **shared)

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        build_maps([(self.stem, input_shape[-1])])
        channels = self._chain.stem
        for index, block in enumerate(self._made_blocks()):
            build_maps([(getattr(self, f"block{index}"), channels)])
            channels = block.channels
        if self.last == "stride32":
            build_maps([(self.head, channels)])
        super().build(input_shape)

    def _steps(self) -> list[int]:
        """The numbers of the blocks that step."""
        return [index for index, block in enumerate(self._chain.blocks) if block.stride == 2]

    def _made_blocks(self) -> Sequence[Block]:
        """The blocks up to the one whose expansion is the deepest map."""
        if self.last == "stride32":
            return self._chain.blocks
        return self._chain.blocks[: self._steps()[LEVELS.index(self.last)] + 1]

    @property
    def levels(self) -> tuple[str, ...]:
        """The names of the maps, finest first."""
        return LEVELS[: LEVELS.index(self.last) + 1]

    def channels(self, level: str) -> int:
        """Returns the channels of the map called `level`."""
        if level == "stride32":
            return self._chain.head
        step = self._steps()[LEVELS.index(level)]
        return self._chain.blocks[step - 1].channels * self._chain.blocks[step].expansion

    def windows(self, level: str) -> list[Window]:
        """Returns the windows from the image to the map called `level`, those that step."""
        kernels = [3, *(self._chain.blocks[step].kernel_size for step in self._steps())]
        made = kernels[: LEVELS.index(level) + 1]
        return [Window(kernel, 2, self._chain.padding) for kernel in made]

    def call(
        self, x: tf.Tensor, training: bool = False, last: str | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns the maps up to and including `last`; later blocks are not computed."""
        last = last or self.last
        x = self.stem(x, training=training)
        maps: dict[str, tf.Tensor] = {}
        for index, block in enumerate(self._made_blocks()):
            layer = getattr(self, f"block{index}")
            if block.stride == 2 and LEVELS[len(maps)] == last:
                maps[last] = layer.expanded(x, training)
                return maps
            x, expanded = layer(x, training=training)
            if block.stride == 2:
                maps[LEVELS[len(maps)]] = expanded
        maps["stride32"] = self.head(x, training=training)
        return maps
