"""AMES: a learned similarity of few local features, of 128 bits each in its student (ECCV 2024).

Suma, Kordopatis-Zilos, Iscen, Tolias: AMES: Asymmetric and Memory-Efficient Similarity Estimation
for Instance-level Retrieval. `delf_tf.retrieval.second_stage.ames` computes the same without
TensorFlow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from delf_tf.checks import require
from delf_tf.models.layers import dense, l2_normalize, layer_norm, multi_head_attention, register
from delf_tf.models.variables import draw_values, variables_by_path

# Variance of the step that stands for the sign while the student learns.
_SIGN_VARIANCE = 1e-6
_INITIAL_DEVIATION = 0.02
_FORBIDDEN = -1e9


@register
class AmesBlock(tf.keras.layers.Layer):
    """Attention within the images, attention across them, and two linear layers; post-norm.

    The sums stay in float32 at any policy.

    Args:
      width: W of the tokens.
      num_heads: of both attentions, a divisor of W.
      hidden_dim: between the linear layers.

    Inputs: tokens float32 [P, T, W]; what is added to the logits of attention within and across,
    each float32 [P, 1, T, T]. Output: float32 [P, T, W].
    """

    def __init__(self, width: int, num_heads: int, hidden_dim: int, **kwargs: Any):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self._arguments = {"width": width, "num_heads": num_heads, "hidden_dim": hidden_dim}
        self.own_qkv, self.own_out, self.own_norm = dense(3 * width), dense(width), layer_norm()
        self.other_qkv, self.other_out, self.other_norm = (
            dense(3 * width),
            dense(width),
            layer_norm(),
        )
        self.hidden, self.shrink, self.shrink_norm = dense(hidden_dim), dense(width), layer_norm()

    def build(self, input_shape: Any = None) -> None:
        """Makes the variables."""
        del input_shape
        width, hidden_dim = self._arguments["width"], self._arguments["hidden_dim"]
        for side in ("own", "other"):
            for part in ("qkv", "out", "norm"):
                getattr(self, f"{side}_{part}").build((None, None, width))
        self.hidden.build((None, None, width))
        self.shrink.build((None, None, hidden_dim))
        self.shrink_norm.build((None, None, width))
        super().build((None, None, width))

    def call(self, tokens: tf.Tensor, own: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        """See the class."""
        heads = self._arguments["num_heads"]
        mixed, _ = multi_head_attention(self.own_qkv(tokens), heads, own)
        tokens = self.own_norm(tokens + tf.cast(self.own_out(mixed), tf.float32))
        mixed, _ = multi_head_attention(self.other_qkv(tokens), heads, other)
        tokens = self.other_norm(tokens + tf.cast(self.other_out(mixed), tf.float32))
        changed = self.shrink(tf.nn.relu(self.hidden(tokens)))
        return self.shrink_norm(tokens + tf.cast(changed, tf.float32))


@register
class Ames(tf.keras.layers.Layer):
    """The similarity of pairs of sets of local features, read off a token that attends to all.

    The features of both images and a learned token are a transformer's tokens. In turn, a feature
    attends to its own image's and to the other's; the token always attends to all, and all to it.

    Args:
      descriptor_dim: D of the local features.
      width: W of the tokens.
      num_layers: of the transformer.
      num_heads: of its attentions.
      hidden_dim: of its linear layers.
      num_bits: 0: the teacher, which takes the descriptors as they are. Else the student: each
        descriptor becomes so many signs, and nothing more of it need be kept.

    Input: float [P, 2, N, D], pairs of sets; rows of zeros are padding. Output: float32 [P], the
    logit of the probability that a pair shows one place.
    """

    def __init__(
        self,
        descriptor_dim: int = 64,
        *,
        width: int = 128,
        num_layers: int = 5,
        num_heads: int = 2,
        hidden_dim: int = 1024,
        num_bits: int = 0,
        **kwargs: Any,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        counts = {"descriptor_dim": descriptor_dim, "width": width, "num_layers": num_layers}
        counts |= {"num_heads": num_heads, "hidden_dim": hidden_dim}
        must = "All counts of the network must be positive, and num_bits 0 or more."
        require(min(counts.values()) >= 1 and num_bits >= 0, must, **counts, num_bits=num_bits)
        require(width % num_heads == 0, "num_heads must divide width.", **counts)
        self._arguments = {**counts, "num_bits": num_bits}
        if num_bits:
            self.code = tf.keras.layers.Dense(
                num_bits, use_bias=False, kernel_initializer="zeros", dtype="float32"
            )
        self.projection, self.projection_norm = dense(width), layer_norm()
        for number in range(1, num_layers + 1):
            setattr(self, f"block{number}", AmesBlock(width, num_heads, hidden_dim))
        self.logit_out = dense(1)

    def build(self, input_shape: Any = None) -> None:
        """Makes the variables."""
        del input_shape
        dim, width = self._arguments["descriptor_dim"], self._arguments["width"]
        bits = self._arguments["num_bits"]
        self.token = self.add_weight(
            name="token", shape=(width,), dtype="float32", initializer="zeros"
        )
        if bits:
            self.code.build((None, 2, None, dim))
        self.projection.build((None, 2, None, bits or dim))
        self.projection_norm.build((None, 2, None, width))
        for block in self._blocks():
            block.build()
        self.logit_out.build((None, width))
        super().build((None, 2, None, dim))

    def initialize(self, seed: int | None) -> None:
        """Builds the layer and draws its weights from a seed; None draws the seed.

        Kernels have the paper's standard deviation of 0.02, the code's projection keeps its own.
        """
        if not self.built:
            self.build()
        draw_values(self, seed)
        for path, variable in variables_by_path(self).items():
            if path == "token":
                variable.assign(_INITIAL_DEVIATION * np.asarray(variable))
            elif path.endswith("kernel") and path != "code.kernel":
                drawn = np.sqrt(2 / variable.shape[0])
                variable.assign(_INITIAL_DEVIATION / drawn * np.asarray(variable))

    def call(self, pairs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See the class; in training the student's signs are a steep slope."""
        present = tf.reduce_any(pairs != 0, axis=-1)
        features = self.projection_norm(self.projection(self._codes(pairs, training)))
        num_pairs, num, width = tf.shape(pairs)[0], tf.shape(pairs)[2], features.shape[-1]
        token = tf.broadcast_to(tf.convert_to_tensor(self.token), [num_pairs, 1, width])
        tokens = tf.concat([token, tf.reshape(features, [num_pairs, 2 * num, width])], axis=1)
        own, other = _forbidden(present)
        for block in self._blocks():
            tokens = block(tokens, own, other)
        return tf.cast(self.logit_out(tokens[:, 0]), tf.float32)[:, 0]

    def logit(self, similarity: tf.Tensor) -> tf.Tensor:
        """Returns the similarities, which are logits."""
        return similarity

    @property
    def options(self) -> dict[str, Any]:
        """What a weights file says of the network."""
        return {"name": "ames", "kwargs": dict(self._arguments), "preprocessing": {}}

    def _blocks(self) -> list[AmesBlock]:
        return [getattr(self, f"block{i + 1}") for i in range(self._arguments["num_layers"])]

    def _codes(self, pairs: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns unit descriptors, or float32 [P, 2, N, num_bits] of -1 and 1."""
        unit = l2_normalize(pairs)
        if not self._arguments["num_bits"]:
            return unit
        projected = self.code(unit)
        if training:
            return tf.math.erf(projected / np.float32(np.sqrt(2 * _SIGN_VARIANCE)))
        return tf.sign(projected)


def _forbidden(present: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what is added to logits of attention within images and across, [P, 1, T, T] each.

    Args:
      present: bool [P, 2, N], no padding.
    """
    num_pairs, num = tf.shape(present)[0], tf.shape(present)[2]
    image = tf.concat([[0], tf.ones(num, tf.int32), tf.fill([num], 2)], axis=0)
    of_token = (image[:, tf.newaxis] == 0) | (image == 0)
    same = image[:, tf.newaxis] == image
    keys = tf.reshape(present, [num_pairs, 1, 1, 2 * num])
    keys = tf.pad(keys, [[0, 0], [0, 0], [0, 0], [1, 0]], constant_values=True)
    own, other = (of_token | same) & keys, (of_token | ~same) & keys
    return tf.where(own, 0.0, _FORBIDDEN), tf.where(other, 0.0, _FORBIDDEN)
