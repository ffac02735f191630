"""Layers that the networks share: preprocessing, convolution with normalisation, pooling."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from delf_tf.checks import as_array, require, require_choice
from delf_tf.models.masking import masked, spatial_max, spatial_mean

# Mean and standard deviation of ImageNet's pixels (RGB, 0..255) as torchvision has them.
IMAGENET_RGB = {
    "channel_order": "RGB",
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
}

register = tf.keras.utils.register_keras_serializable(package="delf_tf")


def l2_normalize(x: tf.Tensor) -> tf.Tensor:
    """Returns `x` scaled to unit length along its last axis, float32; zeros stay zeros."""
    return tf.math.l2_normalize(tf.cast(x, tf.float32), axis=-1, epsilon=1e-12)


@register
class Preprocessing(tf.keras.layers.Layer):
    """Turns RGB in 0..255 into a network's input: `(x - mean) / std` in its channel order.

    Args:
      channel_order: "RGB" or "BGR".
      mean: three numbers in units of 0..255, in the network's channel order.
      std: three positive numbers, likewise.

    Input shape: [B, H, W, 3] float32 RGB, 0..255. Output shape: [B, H, W, 3] float32.
    """

    def __init__(
        self,
        channel_order: str = "RGB",
        mean: Any = (0.0, 0.0, 0.0),
        std: Any = (1.0, 1.0, 1.0),
        **kwargs: Any,
    ):
        # Pixels stay in float32 whatever the policy: bfloat16 has eight bits.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        require_choice("channel_order", channel_order, ("RGB", "BGR"))
        self.channel_order = channel_order
        self._mean = as_array("mean", mean, (3,))
        self._std = as_array("std", std, (3,))
        require(bool((self._std > 0).all()), "std must be positive.", std=self._std.tolist())

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """See the class."""
        x = tf.cast(images, tf.float32)
        if self.channel_order == "BGR":
            x = tf.reverse(x, axis=[-1])
        return masked((x - self._mean) / self._std)

    def options(self) -> dict[str, Any]:
        """Returns the arguments as JSON-able values."""
        return {
            "channel_order": self.channel_order,
            "mean": [float(str(value)) for value in self._mean],
            "std": [float(str(value)) for value in self._std],
        }


@register
class ConvNorm(tf.keras.layers.Layer):
    """A convolution, batch normalisation and, if asked for, an activation.

    Args:
      filters: output channels; 0 means depthwise: one filter a channel.
      kernel_size: side of the square kernel, odd.
      stride: step in both axes.
      padding: "symmetric" (kernel_size // 2 on every side, as PyTorch frameworks pad) or "same"
        (TensorFlow's, which at stride 2 depends on the parity of the size).
      use_bias: whether the convolution adds a bias before the normalisation.
      epsilon: added to the variance.
      momentum: of the moving statistics; 1 keeps them.
      activation: "relu", "relu6" or None.

    Input shape: [B, H, W, C]. Output shape: [B, H', W', filters].
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int = 1,
        stride: int = 1,
        padding: str = "symmetric",
        *,
        use_bias: bool = False,
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        activation: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.stride = filters, kernel_size, stride
        self.padding, self.activation = padding, activation
        self.use_bias, self.epsilon, self.momentum = use_bias, epsilon, momentum
        # At stride 1 both paddings are the same, and the fused one is faster.
        self.margin = kernel_size // 2 if padding == "symmetric" and stride > 1 else 0
        # Made when the layer is built: an inference copy replaces it before, and layers of Keras
        # take long to make.
        self.conv: tf.keras.layers.Layer | None = None
        self.norm: tf.keras.layers.Layer | None = None

    def build(self, input_shape: Any) -> None:
        """Makes the two layers and the variables."""
        shared = {
            "kernel_size": self.kernel_size,
            "strides": self.stride,
            "padding": "valid" if self.margin else "same",
            "use_bias": self.use_bias,
            "dtype": self.dtype_policy,
        }
        # Values are drawn by variable path after construction (variables.py).
        if self.filters:
            self.conv = tf.keras.layers.Conv2D(self.filters, kernel_initializer="zeros", **shared)
        else:
            self.conv = tf.keras.layers.DepthwiseConv2D(depthwise_initializer="zeros", **shared)
        self.norm = tf.keras.layers.BatchNormalization(
            epsilon=self.epsilon, momentum=self.momentum, dtype=self.dtype_policy
        )
        channels = input_shape[-1]
        build_maps([(self.conv, channels), (self.norm, self.filters or channels)])
        super().build(input_shape)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See the class."""
        if self.margin:
            x = pad_symmetric(x, self.margin)
        return self.activate(self.norm(self.conv(x), training=training))

    def activate(self, x: tf.Tensor) -> tf.Tensor:
        """Applies the activation, if there is one."""
        if self.activation is None:
            return x
        return tf.nn.relu6(x) if self.activation == "relu6" else tf.nn.relu(x)


def build_maps(layers: Iterable[tuple[tf.keras.layers.Layer, int]]) -> None:
    """Builds layers for maps of so many channels and any size.

    Keras 3 would otherwise find the shapes by tracing every layer, which takes seconds.
    """
    for layer, channels in layers:
        if not layer.built:
            layer.build((None, None, None, channels))


def pad_symmetric(x: tf.Tensor, margin: int, value: float = 0.0) -> tf.Tensor:
    """Returns [B, H, W, C] `x` with `margin` cells of `value` on every side of H and W."""
    return tf.pad(x, [[0, 0], [margin, margin], [margin, margin], [0, 0]], constant_values=value)


@register
class GeneralizedMean(tf.keras.layers.Layer):
    """Generalised-mean pooling over H and W: `(mean(max(x, 1e-6)^p))^(1/p)`.

    Radenović, Tolias, Chum: Fine-tuning CNN Image Retrieval with No Human Annotation, TPAMI 2019,
    equation 2. p = 1 averages, p towards infinity takes the maximum. With weights, the means are
    weighted.

    Args:
      power: p, positive.
      learnable: whether p is a variable (DOLG) or a constant (DELG).

    Input shape: [B, H, W, C], and weights [B, H, W], at least 0, or none. Output shape: [B, C]
    float32.
    """

    def __init__(self, power: float = 3.0, learnable: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        require(power > 0, "gem_power must be positive.", gem_power=power)
        self.initial_power = float(power)
        self.learnable = learnable

    def build(self, input_shape: Any) -> None:
        """Makes the variable `power`, if it is learnt."""
        self.power = self.initial_power
        if self.learnable:
            self.power = self.add_weight(
                name="power",
                shape=(),
                dtype="float32",
                initializer=tf.keras.initializers.Constant(self.initial_power),
            )
        super().build(input_shape)

    def call(self, x: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
        """See the class."""
        power = tf.cast(self.power, tf.float32)
        raised = tf.pow(tf.maximum(tf.cast(x, tf.float32), 1e-6), power)
        if weights is None:
            return tf.pow(spatial_mean(raised), 1.0 / power)
        weights = tf.cast(weights, tf.float32)[..., tf.newaxis]
        total = tf.maximum(spatial_mean(weights), 1e-12)
        return tf.pow(spatial_mean(raised * weights) / total, 1.0 / power)


@register
class AveragePooling(tf.keras.layers.Layer):
    """The mean over H and W. Input shape: [B, H, W, C]. Output shape: [B, C] float32."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """See the class."""
        return spatial_mean(tf.cast(x, tf.float32))


@register
class MaximumPooling(tf.keras.layers.Layer):
    """The maximum over H and W. Input shape: [B, H, W, C]. Output shape: [B, C] float32."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """See the class."""
        return spatial_max(tf.cast(x, tf.float32))


# A row a pooling that `create_pooling` makes of an exponent, and of whether it is learnt.
POOLINGS: dict[str, Callable[[float, bool], tf.keras.layers.Layer]] = {
    "gem": GeneralizedMean,
    "average": lambda power, learnable: AveragePooling(),
    "max": lambda power, learnable: MaximumPooling(),
}


def create_pooling(kind: str, power: float = 3.0, learnable: bool = False) -> tf.keras.layers.Layer:
    """Returns the pooling layer called `kind`, a row of POOLINGS; GeM has the exponent."""
    require_choice("pooling", kind, POOLINGS)
    return POOLINGS[kind](power, learnable)


def conv1x1(filters: int) -> tf.keras.layers.Conv2D:
    """Returns a 1x1 convolution with bias; its values are drawn after construction."""
    return tf.keras.layers.Conv2D(filters, 1, kernel_initializer="zeros")


def multi_head_attention(
    qkv: tf.Tensor, num_heads: int, added: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scaled dot-product attention of tokens to one another (Vaswani et al., NeurIPS 2017).

    Args:
      qkv: [B, T, 3 D], a token's query, key and value.
      num_heads: a divisor of D.
      added: float32, to the logits [B, num_heads, T, T], as far as it can be broadcast to them.

    Returns:
      [B, T, D] of qkv's type, and what each token attends to, float32 [B, num_heads, T, T].
    """
    shape = tf.shape(qkv)
    head_dim = qkv.shape[-1] // 3 // num_heads
    heads = tf.reshape(qkv, [shape[0], shape[1], 3, num_heads, head_dim])
    query, key, value = tf.unstack(tf.transpose(heads, [2, 0, 3, 1, 4]))
    logits = tf.cast(tf.matmul(query * head_dim**-0.5, key, transpose_b=True), tf.float32)
    attention = tf.nn.softmax(logits if added is None else logits + added)
    mixed = tf.matmul(tf.cast(attention, value.dtype), value)
    mixed = tf.transpose(mixed, [0, 2, 1, 3])
    return tf.reshape(mixed, [shape[0], shape[1], num_heads * head_dim]), attention


def dense(units: int, use_bias: bool = True) -> tf.keras.layers.Dense:
    """Returns a linear layer; its values are drawn after construction."""
    return tf.keras.layers.Dense(units, use_bias=use_bias, kernel_initializer="zeros")


def layer_norm(epsilon: float = 1e-5) -> tf.keras.layers.LayerNormalization:
    """Returns a layer normalisation in float32, usually with the epsilon that PyTorch takes."""
    return tf.keras.layers.LayerNormalization(epsilon=epsilon, dtype="float32")
