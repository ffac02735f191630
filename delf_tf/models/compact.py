"""One small network with DELG's two heads and DOLG's fused descriptor, in one pass."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from delf_tf.checks import require, require_choice
from delf_tf.models.delf import Attention, attention_pool
from delf_tf.models.delg import Autoencoder, describe_reduced
from delf_tf.models.dolg import SelfAttention
from delf_tf.models.layers import (
    GeneralizedMean,
    build_maps,
    conv1x1,
    dense,
    l2_normalize,
    register,
)
from delf_tf.models.masking import spatial_mean
from delf_tf.models.retrieval_model import RetrievalModel

DESCRIPTORS = ("pooled", "fused")


@register
class Expansion(tf.keras.layers.Layer):
    """A 1x1 convolution and ReLU: the map that learns to be the teacher's.

    Args:
      channels: of the output.

    Input shape: [B, h, w, C]. Output shape: [B, h, w, channels].
    """

    def __init__(self, channels: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels = channels
        self.project = conv1x1(channels)

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        build_maps([(self.project, input_shape[-1])])
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """See the class."""
        return tf.nn.relu(self.project(x))


@register
class Compact(RetrievalModel):
    """A backbone to stride 16, a wide map learnt from a larger network, and heads on that map.

    The wide map is trained by distillation alone (Romero et al.: FitNets, ICLR 2015); the heads
    stand behind a stop-gradient, so that what they learn from generated landmarks does not narrow
    what the map knows of photographs.

    Args:
      backbone: a name of backbones.create.BACKBONES that can end at stride 16.
      descriptor: what "global" is: "pooled", the generalised mean of the map, whitened if
        `embedding_dim` is set; or "fused", DOLG's orthogonal fusion.
      feature_dim: channels of the wide map, the teacher's.
      embedding_dim: width of the whitened pooled descriptor; 0 leaves it as wide as the map.
      fusion_dim: width of either half of the fused descriptor; 0 leaves the fusion out.
      gem_power: exponent p of GeM, a constant.
      local_dim: width of local descriptors.
      attention_dim: hidden channels of the attention.
      **options: of the backbone and the preprocessing, see RetrievalModel.
    """

    output_names_available = ("global", "local")
    last_level = "stride16"

    def __init__(
        self,
        backbone: str,
        *,
        descriptor: str = "pooled",
        feature_dim: int = 1024,
        embedding_dim: int = 0,
        fusion_dim: int = 256,
        gem_power: float = 3.0,
        local_dim: int = 64,
        attention_dim: int = 128,
        **options: Any,
    ):
        require_choice("descriptor", descriptor, DESCRIPTORS)
        for name, value in (("feature_dim", feature_dim), ("local_dim", local_dim)):
            require(value > 0, f"{name} must be positive.", **{name: value})
        require(
            fusion_dim > 0 or descriptor != "fused",
            "fusion_dim must be positive for the fused descriptor.",
            fusion_dim=fusion_dim,
        )
        super().__init__(backbone, **options)
        self.descriptor, self.fusion_dim = descriptor, fusion_dim
        self.expansion = Expansion(feature_dim)
        self.pooling = GeneralizedMean(gem_power)
        self.whitening = dense(embedding_dim) if embedding_dim else None
        self.autoencoder = Autoencoder(local_dim, feature_dim)
        self.attention = Attention(attention_dim)
        self.project_global = dense(fusion_dim) if fusion_dim else None
        self.self_attention = SelfAttention(fusion_dim) if fusion_dim else None

    @property
    def global_dim(self) -> int:
        """Width of the global descriptor."""
        if self.descriptor == "fused":
            return 2 * self.fusion_dim
        return self.whitening.units if self.whitening else self.expansion.channels

    @property
    def pooled_widths(self) -> tuple[int, ...]:
        """Width of the pooled descriptor, which a whitening is fitted to."""
        return (self.expansion.channels,)

    @property
    def whitenings(self) -> tuple[tf.keras.layers.Layer | None, ...]:
        """The layer that whitens it; None: not whitened."""
        return (self.whitening,)

    @property
    def local_dim(self) -> int:
        """Width of local descriptors."""
        return self.autoencoder.reduced_dim

    def wide_map(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns the map [B, h, w, feature_dim] that all heads share."""
        maps = self.backbone(self.preprocess(images), training=training, last="stride16")
        return self.expansion(maps["stride16"])

    def pooled(self, wide: tf.Tensor) -> tf.Tensor:
        """Returns the pooled descriptor before it is normalised, float32."""
        pooled = self.pooling(wide)
        if self.whitening is None:
            return pooled
        # Whitening is an affine map of unit vectors, as a PCA fitted to descriptors is.
        return tf.cast(self.whitening(l2_normalize(pooled)), tf.float32)

    def fused(self, wide: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns DOLG's fused descriptor before it is normalised, [B, 2 fusion_dim] float32.

        It joins the global part and the mean of the weighted local features' component that is
        orthogonal to it (equations 3 and 4 of the paper).
        """
        along = tf.cast(self.project_global(self.pooling(wide)), tf.float32)
        local, _ = self.self_attention(wide, training=training)
        mean = spatial_mean(local)
        unit = l2_normalize(along)
        orthogonal = mean - tf.reduce_sum(mean * unit, axis=-1, keepdims=True) * unit
        return tf.concat([along, orthogonal], axis=-1)

    def local(self, wide: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        """Returns "features", "scores" and "reconstruction" of the wide map."""
        return describe_reduced(self.autoencoder, self.attention, wide, training)

    def infer(
        self, images: tf.Tensor, training: bool, outputs: tuple[str, ...]
    ) -> dict[str, tf.Tensor]:
        """See RetrievalModel.call."""
        wide = self.wide_map(images, training)
        result = {}
        if "global" in outputs:
            fused = self.descriptor == "fused"
            vectors = self.fused(wide, training) if fused else self.pooled(wide)
            result["global"] = l2_normalize(vectors)
        if "local" in outputs:
            local = self.local(wide, training)
            result["features"], result["scores"] = local["features"], local["scores"]
        return result

    def make_variables(self) -> None:
        """See RetrievalModel.make_variables; makes the heads that "global" does not use, too."""
        self.training_outputs(tf.zeros([1, 32, 32, 3]), training=False)
        super().make_variables()

    def training_outputs(self, images: tf.Tensor, training: bool = True) -> dict[str, tf.Tensor]:
        """Computes what the losses need.

        Returns:
          "distilled" [B, h, w, feature_dim]: the wide map, the only output whose gradient reaches
            the backbone.
          "embedding" [B, 2 fusion_dim]: the fused descriptor; without a fusion, the pooled one.
          "attention_pooled", "reconstruction" and "reconstruction_target": as Delf's.
          All float32.
        """
        wide = self.wide_map(images, training)
        target = tf.stop_gradient(wide)
        local = self.local(target, training)
        pooled = self.pooled(target)
        return {
            "distilled": tf.cast(wide, tf.float32),
            "embedding": self.fused(target, training) if self.fusion_dim else pooled,
            "attention_pooled": attention_pool(target, local["scores"]),
            "reconstruction": local["reconstruction"],
            "reconstruction_target": tf.cast(target, tf.float32),
        }
