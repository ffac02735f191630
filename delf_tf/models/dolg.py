"""DOLG: Yang et al.: Deep Orthogonal Fusion of Local and Global Features, ICCV 2021."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from delf_tf.checks import require, require_choice
from delf_tf.models.layers import (
    ConvNorm,
    build_maps,
    conv1x1,
    create_pooling,
    dense,
    l2_normalize,
    register,
)
from delf_tf.models.masking import spatial_mean
from delf_tf.models.retrieval_model import RetrievalModel

FUSIONS = ("orthogonal", "concatenation", "hadamard")
DILATIONS = (6, 12, 18)


@register
class MultiAtrous(tf.keras.layers.Layer):
    """Sees a map at several extents: image pooling, 1x1, and 3x3 with dilation 6, 12 and 18.

    Section 3.3 of the paper. No normalisation; ReLU after the pooled branch and after the merge.

    Args:
      branch_dim: channels of each branch.
      channels: output channels.

    Input shape: [B, h, w, C]. Output shape: [B, h, w, channels].
    """

    def __init__(self, branch_dim: int, channels: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.branch_dim, self.channels = branch_dim, channels
        self.pooled = conv1x1(branch_dim)
        self.pointwise = conv1x1(branch_dim)
        for dilation in DILATIONS:
            branch = tf.keras.layers.Conv2D(
                branch_dim, 3, dilation_rate=dilation, padding="same", kernel_initializer="zeros"
            )
            setattr(self, f"atrous{dilation}", branch)
        self.merge = conv1x1(channels)

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        names = ["pooled", "pointwise", *(f"atrous{dilation}" for dilation in DILATIONS)]
        build_maps((getattr(self, name), input_shape[-1]) for name in names)
        build_maps([(self.merge, len(names) * self.branch_dim)])
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """See the class."""
        pooled = tf.nn.relu(self.pooled(spatial_mean(x, keepdims=True)))
        branches = [pooled + tf.zeros_like(x[..., :1]), self.pointwise(x)]
        branches += [getattr(self, f"atrous{dilation}")(x) for dilation in DILATIONS]
        branches[0] = tf.cast(branches[0], branches[1].dtype)
        return tf.nn.relu(self.merge(tf.concat(branches, axis=-1)))


@register
class SelfAttention(tf.keras.layers.Layer):
    """L2-normalised features times a softplus attention (figure 3b of the paper).

    Args:
      channels: output channels.
      weighted: whether cells are weighted; without it every cell counts the same, and the
        convolution, its normalisation and the L2 normalisation remain (an ablation).

    Input shape: [B, h, w, C]. Outputs, float32: weighted features [B, h, w, channels], attention
    [B, h, w].
    """

    def __init__(self, channels: int, weighted: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.channels, self.weighted = channels, weighted
        self.project = ConvNorm(channels, use_bias=True)
        self.score = conv1x1(1) if weighted else None

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        build_maps([(self.project, input_shape[-1])])
        if self.score is not None:
            build_maps([(self.score, self.channels)])
        super().build(input_shape)

    def call(self, x: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """See the class."""
        x = self.project(x, training=training)
        features = l2_normalize(x)
        if self.score is None:
            return features, tf.ones_like(features[..., 0])
        logits = self.score(tf.nn.relu(x))[..., 0]
        attention = tf.nn.softplus(tf.cast(logits, tf.float32))
        return features * attention[..., tf.newaxis], attention


@register
class Dolg(RetrievalModel):
    """A global feature fused with the component of local features that is orthogonal to it.

    The released weights have no multi-atrous module; the paper has one, and so has the default.

    Args:
      backbone: a name of backbones.create.BACKBONES.
      embedding_dim: width of the descriptor; 0 leaves out the last layer.
      fusion_dim: channels of the local features and of the global feature that they are fused with.
      gem_power: initial exponent p of GeM, which is learnt.
      fusion: "orthogonal", "concatenation" or "hadamard".
      multi_atrous: whether the local branch sees several extents.
      self_attention: whether local features are weighted.
      global_pooling: "gem" or "average", of stage 5.
      local_pooling: "average" or "gem", of the fused map.
      **options: of the backbone and the preprocessing, see RetrievalModel.
    """

    output_names_available = ("global",)
    local_dim = None

    def __init__(
        self,
        backbone: str,
        *,
        embedding_dim: int = 512,
        fusion_dim: int = 1024,
        gem_power: float = 3.0,
        fusion: str = "orthogonal",
        multi_atrous: bool = True,
        self_attention: bool = True,
        global_pooling: str = "gem",
        local_pooling: str = "average",
        **options: Any,
    ):
        require(embedding_dim >= 0, "embedding_dim must not be negative.", value=embedding_dim)
        require(fusion_dim >= 2, "fusion_dim must be at least 2.", value=fusion_dim)
        require_choice("fusion", fusion, FUSIONS)
        super().__init__(backbone, **options)
        self.fusion = fusion
        self.fusion_dim = fusion_dim
        self.pooling = create_pooling(global_pooling, gem_power, learnable=True)
        self.project_global = dense(fusion_dim)
        self.multi_atrous = MultiAtrous(fusion_dim // 2, fusion_dim) if multi_atrous else None
        self.self_attention = SelfAttention(fusion_dim, weighted=self_attention)
        self.average_locally = local_pooling == "average"
        self.local_pooling = create_pooling(local_pooling, gem_power, learnable=True)
        self.embedding = dense(embedding_dim) if embedding_dim else None

    @property
    def global_dim(self) -> int:
        """Width of the descriptor."""
        if self.embedding:
            return self.embedding.units
        return self.fusion_dim if self.fusion == "hadamard" else 2 * self.fusion_dim

    def local_branch(self, x: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the local map [B, h, w, fusion_dim] and its attention [B, h, w], float32."""
        if self.multi_atrous is not None:
            x = self.multi_atrous(x)
        return self.self_attention(x, training=training)

    def fuse(self, local: tf.Tensor, global_feature: tf.Tensor) -> tf.Tensor:
        """Returns the pooled fusion, [B, fusion_dim] or twice that.

        The orthogonal part of a cell is f - (f . g / |g|^2) g (equations 3 and 4). Averaging
        commutes with it, and with the product, so the fused map is made for GeM alone.

        Args:
          local: [B, h, w, fusion_dim].
          global_feature: [B, fusion_dim].
        """
        if self.average_locally:
            local = self.local_pooling(local)[:, tf.newaxis, tf.newaxis]
        g = global_feature[:, tf.newaxis, tf.newaxis]
        if self.fusion == "hadamard":
            local = local * g
        elif self.fusion == "orthogonal":
            along = tf.reduce_sum(local * g, axis=-1, keepdims=True)
            local -= along / tf.reduce_sum(g * g, axis=-1, keepdims=True) * g
        pooled = local[:, 0, 0] if self.average_locally else self.local_pooling(local)
        return pooled if self.fusion == "hadamard" else tf.concat([global_feature, pooled], -1)

    def embed(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """Returns the descriptor before it is normalised, [B, global_dim] float32."""
        maps = self.backbone(self.preprocess(images), training=training)
        pooled = self.pooling(maps["stride32"])
        global_feature = tf.cast(self.project_global(pooled), tf.float32)
        local, _ = self.local_branch(maps["stride16"], training)
        fused = self.fuse(local, global_feature)
        return tf.cast(self.embedding(fused), tf.float32) if self.embedding else fused

    def infer(
        self, images: tf.Tensor, training: bool, outputs: tuple[str, ...]
    ) -> dict[str, tf.Tensor]:
        """See RetrievalModel.call."""
        return {"global": l2_normalize(self.embed(images, training))} if outputs else {}

    def inspect_fusion(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns maps that show where the descriptor comes from.

        Returns:
          "attention" [B, h, w]; "orthogonal energy" [B, h, w], the squared length of the part of
          each weighted local feature that is orthogonal to the global feature, whatever the
          model's own fusion; both float32, at least 0.
        """
        maps = self.backbone(self.preprocess(images), training=False)
        g = tf.cast(self.project_global(self.pooling(maps["stride32"])), tf.float32)
        local, attention = self.local_branch(maps["stride16"], False)
        along = tf.einsum("bhwc,bc->bhw", local, l2_normalize(g))
        energy = tf.reduce_sum(tf.square(local), axis=-1) - tf.square(along)
        return {"attention": attention, "orthogonal energy": tf.maximum(energy, 0.0)}

    def training_outputs(self, images: tf.Tensor, training: bool = True) -> dict[str, tf.Tensor]:
        """Returns {"embedding": [B, global_dim] float32}: the descriptor before normalisation."""
        return {"embedding": self.embed(images, training)}
