"""ResNet-50/101/152 (He et al., CVPR 2016), version 1, in the forms that published weights need."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from delf_tf.checks import require_choice
from delf_tf.models.backbones.backbone import Backbone, scale_channels
from delf_tf.models.geometry import Window
from delf_tf.models.layers import ConvNorm, build_maps, pad_symmetric, register

# Blocks of the stages; of no paper are 14, which learns in minutes from random weights, and 20,
# which spends its depth where the maps are small.
DEPTHS = {
    14: (1, 1, 1, 1),
    20: (1, 1, 3, 1),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
LEVELS = ("stride4", "stride8", "stride16", "stride32")


class Form(NamedTuple):
    """What differs between the published ResNets v1.

    Attributes:
      strided: the convolution of a stage's first block that takes the step, 1 (1x1) or 2 (3x3).
      use_bias: whether convolutions add a bias.
      epsilon: of batch normalisation.
      momentum: of batch normalisation.
      stem_padding: of the 7x7 convolution: "symmetric" or "same".
      pool_padding: of the 3x3 max pooling: "symmetric" or "valid".
    """

    strided: int
    use_bias: bool
    epsilon: float
    momentum: float
    stem_padding: str
    pool_padding: str


FORMS = {
    # torchvision, timm, pycls: DOLG, Super-features.
    "torchvision": Form(2, False, 1e-5, 0.9, "symmetric", "symmetric"),
    # The original DELF and DELG code.
    "keras": Form(1, True, 1e-3, 0.99, "same", "valid"),
    # tf.keras.applications.ResNet50/101/152.
    "keras_applications": Form(1, True, 1.001e-5, 0.99, "symmetric", "symmetric"),
}


@register
class Bottleneck(tf.keras.layers.Layer):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; ReLU of their sum.

    Args:
      width: channels of the first two convolutions.
      channels: output channels.
      stride: 1 or 2.
      form: a name in FORMS.
      project: whether the shortcut is a 1x1 convolution rather than the identity.

    Input shape: [B, H, W, C]. Output shape: [B, ceil(H / stride), ceil(W / stride), channels].
    """

    def __init__(
        self, width: int, channels: int, stride: int, form: str, project: bool, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self._width = width
        traits = FORMS[form]
        first, second = (stride, 1) if traits.strided == 1 else (1, stride)
        norm = {
            "use_bias": traits.use_bias,
            "epsilon": traits.epsilon,
            "momentum": traits.momentum,
        }
        self.conv1 = ConvNorm(width, 1, first, activation="relu", **norm)
        self.conv2 = ConvNorm(width, 3, second, activation="relu", **norm)
        self.conv3 = ConvNorm(channels, **norm)
        self.shortcut = ConvNorm(channels, 1, stride, **norm) if project else None

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        width = self._width
        build_maps([(self.conv1, input_shape[-1]), (self.conv2, width), (self.conv3, width)])
        if self.shortcut is not None:
            build_maps([(self.shortcut, input_shape[-1])])
        super().build(input_shape)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See the class."""
        branch = self.conv1(x, training=training)
        branch = self.conv2(branch, training=training)
        branch = self.conv3(branch, training=training)
        if self.shortcut is not None:
            x = self.shortcut(x, training=training)
        return tf.nn.relu(x + branch)


@register
class ResNet(Backbone):
    """The convolutional part of ResNet, giving the map at the end of every stage.

    Args:
      depth: a key of DEPTHS.
      form: a name in FORMS; which published weights fit.
      width_multiplier: multiplies all channels (then made multiples of 8).
      last: the deepest level that is made; stages behind it do not exist.

    Input shape: [B, H, W, 3], preprocessed. Output: {"stride4": [B, H/4, W/4, 256], "stride8": 512
    channels, "stride16": 1024, "stride32": 2048}, after ReLU (stages 2 to 5 of the paper).
    """

    def __init__(
        self,
        depth: int = 50,
        form: str = "torchvision",
        width_multiplier: float = 1.0,
        last: str = "stride32",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        require_choice("depth", depth, DEPTHS)
        require_choice("backbone_form", form, FORMS)
        require_choice("last", last, LEVELS)
        self.depth, self.form, self.last = depth, form, last
        self.width_multiplier = float(width_multiplier)
        traits = FORMS[form]
        self.pads_with_zeros = traits.stem_padding == traits.pool_padding == "symmetric"
        self.stem = ConvNorm(
            self._scaled(64),
            kernel_size=7,
            stride=2,
            padding=traits.stem_padding,
            use_bias=traits.use_bias,
            epsilon=traits.epsilon,
            momentum=traits.momentum,
            activation="relu",
        )
        for level in self.levels:
            for index, name in enumerate(self._block_names(level)):
                setattr(self, name, self._make_block(level, index))

    def _scaled(self, channels: int) -> int:
        return scale_channels(channels, self.width_multiplier)

    def _block_names(self, level: str) -> list[str]:
        stage = LEVELS.index(level)
        return [f"stage{stage + 2}_block{i + 1}" for i in range(DEPTHS[self.depth][stage])]

    def _make_block(self, level: str, index: int) -> Bottleneck:
        stage = LEVELS.index(level)
        return Bottleneck(
            width=self._scaled(64 << stage),
            channels=self.channels(level),
            stride=2 if stage and not index else 1,
            form=self.form,
            project=not index,
        )

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        build_maps([(self.stem, input_shape[-1])])
        channels = self._scaled(64)
        for level in self.levels:
            for name in self._block_names(level):
                build_maps([(getattr(self, name), channels)])
                channels = self.channels(level)
        super().build(input_shape)

    @property
    def levels(self) -> tuple[str, ...]:
        """The names of the maps, finest first."""
        return LEVELS[: LEVELS.index(self.last) + 1]

    def channels(self, level: str) -> int:
        """Returns the channels of the map called `level`."""
        return self._scaled(256 << LEVELS.index(level))

    def windows(self, level: str) -> list[Window]:
        """Returns the windows from the image to the map called `level`, those that step."""
        traits = FORMS[self.form]
        chain = [Window(7, 2, traits.stem_padding), Window(3, 2, traits.pool_padding)]
        step = Window(2 * traits.strided - 1, 2, "symmetric")
        return chain + [step] * LEVELS.index(level)

    def call(
        self, x: tf.Tensor, training: bool = False, last: str | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns the maps up to and including `last`; later stages are not computed."""
        x = self.stem(x, training=training)
        if FORMS[self.form].pool_padding == "symmetric":
            x = pad_symmetric(x, 1)  # zero is the least value after ReLU
        x = tf.nn.max_pool2d(x, 3, 2, "VALID")
        maps = {}
        for level in self.levels:
            for name in self._block_names(level):
                x = getattr(self, name)(x, training=training)
            maps[level] = x
            if level == last:
                break
        return maps
