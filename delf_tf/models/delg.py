"""DELG: Cao, Araujo, Sim: Unifying Deep Local and Global Features for Image Search, ECCV 2020."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from delf_tf.checks import require
from delf_tf.models.delf import Attention, Delf
from delf_tf.models.layers import build_maps, conv1x1, create_pooling, dense, register


@register
class Autoencoder(tf.keras.layers.Layer):
    """Reduces local features by one 1x1 convolution, and rebuilds them by another and ReLU.

    Section 3.2 of the paper: the reduction is learnt with the network instead of a PCA after it.

    Args:
      reduced_dim: channels of the reduced features.
      expanded_dim: channels of the input and of the reconstruction.

    Input shape: [B, h, w, expanded_dim]. Outputs: reduced [B, h, w, reduced_dim], reconstruction
    [B, h, w, expanded_dim].
    """

    def __init__(self, reduced_dim: int, expanded_dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.reduced_dim, self.expanded_dim = reduced_dim, expanded_dim
        self.encoder = conv1x1(reduced_dim)
        self.decoder = conv1x1(expanded_dim)

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        build_maps([(self.encoder, input_shape[-1]), (self.decoder, self.reduced_dim)])
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See the class."""
        reduced = self.encoder(x)
        return reduced, tf.nn.relu(self.decoder(reduced))


def describe_reduced(
    autoencoder: Autoencoder, attention: Attention, target: tf.Tensor, training: bool
) -> dict[str, tf.Tensor]:
    """Returns "features", "scores" and "reconstruction" of a local map, float32."""
    reduced, rebuilt = autoencoder(target)
    return {
        "features": tf.cast(reduced, tf.float32),
        "scores": attention(rebuilt, training=training),
        "reconstruction": tf.cast(rebuilt, tf.float32),
    }


@register
class Delg(Delf):
    """DELF's local branch with an autoencoder, and a global descriptor by GeM and whitening.

    Scores are computed from the reconstruction, in training and in extraction alike, so that the
    reduced features must keep what the attention needs.

    Args:
      backbone: a name of backbones.create.BACKBONES.
      embedding_dim: width of the global descriptor; 0 leaves out the whitening layer.
      gem_power: exponent p of GeM, a constant.
      local_dim: width of local descriptors; 0 leaves out the autoencoder.
      global_pooling: "gem" or "average".
      attention_dim: hidden channels of the attention.
      **options: of the backbone and the preprocessing, see RetrievalModel.
    """

    def __init__(
        self,
        backbone: str,
        *,
        embedding_dim: int = 2048,
        gem_power: float = 3.0,
        local_dim: int = 128,
        global_pooling: str = "gem",
        attention_dim: int = 512,
        **options: Any,
    ):
        require(embedding_dim >= 0, "embedding_dim must not be negative.", value=embedding_dim)
        require(local_dim >= 0, "local_dim must not be negative.", value=local_dim)
        super().__init__(backbone, attention_dim=attention_dim, **options)
        self.pooling = create_pooling(global_pooling, gem_power)
        self.whitening = dense(embedding_dim) if embedding_dim else None
        channels = self.backbone.channels("stride16")
        self.autoencoder = Autoencoder(local_dim, channels) if local_dim else None

    @property
    def global_dim(self) -> int:
        """Width of the global descriptor."""
        return self.whitening.units if self.whitening else super().global_dim

    @property
    def local_dim(self) -> int:
        """Width of local descriptors."""
        return self.autoencoder.reduced_dim if self.autoencoder else super().local_dim

    def embed(self, maps: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns the global descriptor before it is normalised, [B, global_dim] float32."""
        pooled = self.pooling(maps["stride32"])
        return tf.cast(self.whitening(pooled), tf.float32) if self.whitening else pooled

    def describe(self, target: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        """See Delf.describe."""
        if self.autoencoder is None:
            return super().describe(target, training)
        return describe_reduced(self.autoencoder, self.attention, target, training)
