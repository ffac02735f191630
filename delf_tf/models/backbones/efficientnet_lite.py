"""EfficientNet-Lite 0, 1 and 2: EfficientNet (Tan and Le, ICML 2019) without gates, with ReLU6."""

from __future__ import annotations

import math
from typing import Any

from delf_tf.checks import require, require_choice
from delf_tf.models.backbones.inverted_residuals import Block, Chain, InvertedResiduals
from delf_tf.models.backbones.resnet import scale_channels
from delf_tf.models.layers import register

# Expansion factor (0: none), output channels, kernel, repeats, stride of the first.
SETTINGS = (
    (0, 16, 3, 1, 1),
    (6, 24, 3, 2, 2),
    (6, 40, 5, 2, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 5, 3, 1),
    (6, 192, 5, 4, 2),
    (6, 320, 3, 1, 1),
)
# Variant -> factors of the channels and of the repeats.
FACTORS = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}


def block_settings(variant: int, width_multiplier: float = 1.0) -> list[Block]:
    """Returns the blocks of a variant in order; its first and last stage are never repeated."""
    width, depth = FACTORS[variant]
    blocks = []
    for stage, (expansion, channels, kernel, repeats, stride) in enumerate(SETTINGS):
        ends = stage in (0, len(SETTINGS) - 1)
        for repeat in range(repeats if ends else math.ceil(repeats * depth)):
            scaled = scale_channels(channels, width * width_multiplier)
            blocks.append(Block(expansion, scaled, kernel, 1 if repeat else stride))
    return blocks


@register
class EfficientNetLite(InvertedResiduals):
    """The convolutional part of an EfficientNet-Lite.

    Padding is TensorFlow's "same": at sizes that are no multiples of 32 what a cell sees shifts
    with the size, and `grid` follows it.

    Args:
      variant: 0, 1 or 2.
      width_multiplier: multiplies the variant's channels once more (then made multiples of 8); the
        last convolution never has fewer than 1280.
      last: the deepest level that is made.

    Input shape: [B, H, W, 3], preprocessed. Output of variant 0: {"stride2": [B, H/2, W/2, 96],
    "stride4": 144 channels, "stride8": 240, "stride16": 672, "stride32": 1280}.
    """

    def __init__(
        self,
        variant: int = 0,
        width_multiplier: float = 1.0,
        last: str = "stride32",
        **kwargs: Any,
    ):
        require_choice("variant", variant, FACTORS)
        require(
            0 < width_multiplier <= 4,
            "width_multiplier must be in (0, 4].",
            width_multiplier=width_multiplier,
        )
        chain = Chain(
            stem=scale_channels(32, width_multiplier),
            blocks=block_settings(variant, width_multiplier),
            head=max(1280, scale_channels(1280, width_multiplier)),
            padding="same",
            epsilon=1e-3,
            momentum=0.99,
        )
        super().__init__(chain, last, **kwargs)
        self.variant, self.width_multiplier = variant, float(width_multiplier)
