"""Inference copies of networks: batch normalisation inside the convolutions, bfloat16 if asked for.

At inference batch normalisation is affine, `y = (x - mean) * gamma / sqrt(variance + epsilon) +
beta`, and a convolution before it can do it: kernel and bias are multiplied, the bias is shifted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from delf_tf.artifacts import StrPath
from delf_tf.checks import require_choice
from delf_tf.extraction.backends.precision import BFLOAT16, FLOAT32
from delf_tf.models import registry
from delf_tf.models.layers import ConvNorm, pad_symmetric
from delf_tf.models.masking import masked
from delf_tf.models.retrieval_model import RetrievalModel
from delf_tf.models.variables import held_layers, variables_by_path
from delf_tf.models.zoo import checkpoint

_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


class FoldedConvNorm(ConvNorm):
    """What a ConvNorm of the same arguments computes at inference, as one convolution with bias."""

    def build(self, input_shape: Any) -> None:
        """Makes `kernel` and `bias`."""
        channels = int(input_shape[-1])
        last = (channels, self.filters) if self.filters else (channels, 1)
        size = self.kernel_size
        self.kernel = self.add_weight(name="kernel", shape=(size, size, *last), initializer="zeros")
        self.bias = self.add_weight(
            name="bias", shape=(self.filters or channels,), initializer="zeros"
        )
        self.built = True

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See ConvNorm; `training` changes nothing."""
        del training
        stride, margin = self.stride, self.margin
        kernel, bias = (tf.cast(one, x.dtype) for one in (self.kernel, self.bias))
        if not self.filters:
            # TensorFlow aborts on explicit padding of a depthwise convolution fused with its bias.
            x = pad_symmetric(x, margin) if margin else x
            pad = "VALID" if margin else "SAME"
            x = tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], pad)
        else:
            pad = [[0, 0], [margin] * 2, [margin] * 2, [0, 0]] if margin else "SAME"
            x = tf.nn.conv2d(x, kernel, stride, pad)
        return masked(self.activate(tf.nn.bias_add(x, bias)))


def inference_copy(model: RetrievalModel, precision: str = FLOAT32) -> RetrievalModel:
    """Returns a network that gives what `model` gives at inference, faster.

    The copy holds the weights of this moment. With "bfloat16" convolutions have bfloat16 weights
    and activations; preprocessing, the stem, scores, pooling, normalisation and what works on
    pooled vectors stay in float32. Backbones of tf.keras.applications ("keras:…") are copied as
    they are.

    Args:
      model: of create_model; may be in use elsewhere, and stays as it is.
      precision: "float32" or "bfloat16".

    Raises:
      InputError: an unknown precision.
    """
    values = {path: _to_numpy(variable) for path, variable in variables_by_path(model).items()}
    # A network of the user's may have variables that inference does not use.
    return inference_network(registry.arguments(model.options), values, precision, exactly=False)


def inference_network(
    options: dict[str, Any],
    values: dict[str, np.ndarray],
    precision: str = FLOAT32,
    *,
    exactly: bool = True,
    path: StrPath | None = None,
) -> RetrievalModel:
    """Returns the inference copy of a network that need not be made first.

    Args:
      options: arguments of registry.construct.
      values: the weights by variable path; what is not float64 is widened before it is folded.
      precision: see `inference_copy`.
      exactly: whether `values` must hold nothing else.
      path: of the file that the values come from, for errors.

    Raises:
      InputError: an unknown precision, options that the model may not have, or values that are not
        its weights.
    """
    require_choice("precision", precision, (FLOAT32, BFLOAT16))
    copy = registry.construct(**options)
    if precision == BFLOAT16:
        with _policy(BFLOAT16):
            _take_convolutions(copy, registry.construct(**options))
    copy.inference_precision = precision
    folded = dict(_fold_layers(copy))
    copy.make_variables()
    variables = variables_by_path(copy)
    shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
    checkpoint.require_fit(values, _shapes_before(shapes, folded), path, exactly=exactly)
    values = _folded_values(values, folded)
    for name, variable in variables.items():
        variable.assign(values[name].astype(tf.as_dtype(variable.dtype).as_numpy_dtype))
    return copy


@contextlib.contextmanager
def _policy(name: str) -> Iterator[None]:
    """Layers made inside compute, and keep their weights, in `name`."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def _take_convolutions(model: RetrievalModel, donor: RetrievalModel) -> None:
    """Replaces the parts of `model` that hold convolutions by those of `donor`."""
    for name, layer in list(held_layers(donor)):
        if _holds_convolutions(layer):
            _keep_ends(getattr(model, name), layer)
            _replace(model, name, layer)


def _keep_ends(kept: tf.keras.layers.Layer, layer: tf.keras.layers.Layer) -> None:
    """Gives `layer` the parts of `kept` that stay in float32.

    Scores (convolutions to one channel) order features: in bfloat16 many would be equal. No later
    layer recovers what the stem loses of the pixels: in float32 it saves two thirds of the mAP that
    MobileNetV2 loses.
    """
    for name, child in list(held_layers(layer)):
        if name == "stem" or (isinstance(child, tf.keras.layers.Conv2D) and child.filters == 1):
            _replace(layer, name, getattr(kept, name))
        elif _holds_convolutions(child):
            _keep_ends(getattr(kept, name), child)


def _holds_convolutions(layer: tf.keras.layers.Layer) -> bool:
    if isinstance(layer, (tf.keras.layers.Conv2D, ConvNorm)):
        return True
    return any(_holds_convolutions(child) for _, child in held_layers(layer))


def _fold_layers(layer: tf.keras.layers.Layer, prefix: str = "") -> Iterator[tuple[str, ConvNorm]]:
    """Replaces every ConvNorm below `layer`; yields its path and itself."""
    for name, child in list(held_layers(layer)):
        path = f"{prefix}{name}"
        if isinstance(child, ConvNorm):
            folded = FoldedConvNorm(
                child.filters,
                child.kernel_size,
                child.stride,
                child.padding,
                activation=child.activation,
                dtype=child.compute_dtype,
            )
            _replace(layer, name, folded)
            yield path, child
        else:
            yield from _fold_layers(child, f"{path}.")


def _replace(parent: Any, name: str, layer: tf.keras.layers.Layer) -> None:
    # Keras keeps a list of a layer's layers, which deleting the attribute clears.
    delattr(parent, name)
    setattr(parent, name, layer)


def _shapes_before(
    shapes: dict[str, tuple[int, ...]], folded: dict[str, ConvNorm]
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a network's variables from those of its inference copy."""
    before = dict(shapes)
    for path, layer in folded.items():
        before[f"{path}.conv.kernel"] = before.pop(f"{path}.kernel")
        bias = before.pop(f"{path}.bias")
        before.update({f"{path}.norm.{name}": bias for name in _NORM})
        if layer.use_bias:
            before[f"{path}.conv.bias"] = bias
    return before


def _folded_values(
    values: dict[str, np.ndarray], folded: dict[str, ConvNorm]
) -> dict[str, np.ndarray]:
    """Returns weights by path with the normalisations of the ConvNorms at `folded` folded."""
    values = {path: value.astype(np.float64) for path, value in values.items()}
    for path, layer in folded.items():
        kernel = values[f"{path}.conv.kernel"]
        gamma, beta, mean, variance = (values[f"{path}.norm.{name}"] for name in _NORM)
        bias = values[f"{path}.conv.bias"] if layer.use_bias else 0.0
        factor = gamma / np.sqrt(variance + layer.epsilon)
        # A depthwise kernel is [K, K, C, 1].
        values[f"{path}.kernel"] = kernel * (factor if layer.filters else factor[:, np.newaxis])
        values[f"{path}.bias"] = beta + (bias - mean) * factor
    return values


def _to_numpy(variable: Any) -> np.ndarray:
    return tf.convert_to_tensor(variable).numpy()
