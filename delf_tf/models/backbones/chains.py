"""MobileNetV2 and EfficientNet-Lite as chains of inverted residuals."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from delf_tf.models.backbones.backbone import scale_channels


class Block(NamedTuple):
    """One inverted residual.

    Attributes:
      expansion: factor of the input's channels; 0: the block has no expansion.
      channels: of the output.
      kernel_size: of the depthwise convolution.
      stride: 1 or 2.
    """

    expansion: int
    channels: int
    kernel_size: int
    stride: int


class Chain(NamedTuple):
    """A whole network.

    Attributes:
      stem: channels of the first convolution, 3x3 of stride 2.
      blocks: in order; four of them step.
      head: channels of the last 1x1 convolution.
      padding: "symmetric" or "same", see ConvNorm.
      epsilon: of batch normalisation.
      momentum: of batch normalisation.
    """

    stem: int
    blocks: Sequence[Block]
    head: int
    padding: str
    epsilon: float
    momentum: float


# Expansion factor, output channels, kernel, repeats, stride of the first. Table 2 of Sandler et
# al., CVPR 2018.
_MOBILENET_V2 = (
    (1, 16, 3, 1, 1),
    (6, 24, 3, 2, 2),
    (6, 32, 3, 3, 2),
    (6, 64, 3, 4, 2),
    (6, 96, 3, 3, 1),
    (6, 160, 3, 3, 2),
    (6, 320, 3, 1, 1),
)
# EfficientNet-Lite0: EfficientNet (Tan and Le, ICML 2019) without gates, with ReLU6.
_EFFICIENTNET_LITE = (
    (0, 16, 3, 1, 1),
    (6, 24, 3, 2, 2),
    (6, 40, 5, 2, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 5, 3, 1),
    (6, 192, 5, 4, 2),
    (6, 320, 3, 1, 1),
)
# Variant of EfficientNet-Lite -> factors of the channels and of the repeats.
LITE_FACTORS = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}


def mobilenet_v2(width_multiplier: float = 1.0) -> Chain:
    """Returns MobileNetV2 with symmetric padding."""
    blocks = _blocks(_MOBILENET_V2, width_multiplier)
    return _chain(blocks, width_multiplier, "symmetric", epsilon=1e-5, momentum=0.9)


def efficientnet_lite(variant: int, width_multiplier: float = 1.0) -> Chain:
    """Returns EfficientNet-Lite 0, 1 or 2.

    The multiplier comes on top of the variant's own width. Padding is TensorFlow's "same": at sizes
    that are no multiples of 32 what a cell sees shifts with the size.
    """
    width, depth = LITE_FACTORS[variant]
    blocks = _blocks(_EFFICIENTNET_LITE, width * width_multiplier, depth)
    return _chain(blocks, width_multiplier, "same", epsilon=1e-3, momentum=0.99)


CHAINS: dict[str, Callable[[float], Chain]] = {
    "mobilenet_v2": mobilenet_v2,
    **{
        f"efficientnet_lite{variant}": functools.partial(efficientnet_lite, variant)
        for variant in LITE_FACTORS
    },
}


def _blocks(
    stages: Sequence[tuple[int, int, int, int, int]], width: float, depth: float = 1.0
) -> list[Block]:
    """Returns the blocks of the stages; the first and the last stage are never repeated."""
    blocks = []
    for stage, (expansion, channels, kernel, repeats, stride) in enumerate(stages):
        ends = stage in (0, len(stages) - 1)
        for repeat in range(repeats if ends else math.ceil(repeats * depth)):
            scaled = scale_channels(channels, width)
            blocks.append(Block(expansion, scaled, kernel, 1 if repeat else stride))
    return blocks


def _chain(
    blocks: Sequence[Block], width_multiplier: float, padding: str, **normalization: float
) -> Chain:
    """Returns a network around blocks; its head never has fewer than 1280 channels."""
    stem, head = (scale_channels(one, width_multiplier) for one in (32, 1280))
    return Chain(stem, blocks, max(1280, head), padding, **normalization)
