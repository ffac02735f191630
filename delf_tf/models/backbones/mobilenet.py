"""MobileNetV2 (Sandler et al., CVPR 2018) with symmetric padding."""

from __future__ import annotations

from typing import Any

from delf_tf.checks import require
from delf_tf.models.backbones.inverted_residuals import Block, Chain, InvertedResiduals
from delf_tf.models.backbones.resnet import scale_channels
from delf_tf.models.layers import register

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


@register
class MobileNetV2(InvertedResiduals):
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
        require(
            0 < width_multiplier <= 4,
            "width_multiplier must be in (0, 4].",
            width_multiplier=width_multiplier,
        )
        blocks = [
            Block(expansion, scale_channels(channels, width_multiplier), 3, 1 if repeat else stride)
            for expansion, channels, repeats, stride in SETTINGS
            for repeat in range(repeats)
        ]
        chain = Chain(
            stem=scale_channels(32, width_multiplier),
            blocks=blocks,
            head=max(1280, scale_channels(1280, width_multiplier)),
            padding="symmetric",
            epsilon=1e-5,
            momentum=0.9,
        )
        super().__init__(chain, last, **kwargs)
        self.width_multiplier = float(width_multiplier)
