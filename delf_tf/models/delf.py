"""DELF: Noh et al.: Large-Scale Image Retrieval with Attentive Deep Local Features, ICCV 2017."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from delf_tf.checks import require, require_choice
from delf_tf.models.layers import ConvNorm, build_maps, conv1x1, l2_normalize, register
from delf_tf.models.masking import spatial_mean
from delf_tf.models.retrieval_model import RetrievalModel

STEPS = ("descriptor", "attention", "joint")


@register
class Attention(tf.keras.layers.Layer):
    """The attention score of every cell: two 1x1 convolutions and softplus (section 3.3).

    Args:
      hidden_dim: channels between the two.

    Input shape: [B, h, w, C]. Output shape: [B, h, w] float32, positive.
    """

    def __init__(self, hidden_dim: int = 512, **kwargs: Any):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.hidden = ConvNorm(
            hidden_dim, use_bias=True, epsilon=1e-3, momentum=0.99, activation="relu"
        )
        self.score = conv1x1(1)

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        build_maps([(self.hidden, input_shape[-1]), (self.score, self.hidden_dim)])
        super().build(input_shape)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See the class."""
        logits = self.score(self.hidden(x, training=training))
        return tf.nn.softplus(tf.cast(logits[..., 0], tf.float32))


def attention_pool(features: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Returns the mean over cells of L2-normalised features times their scores.

    The input of the attention's classifier (equation 1 of the paper, with the mean for the sum).

    Args:
      features: [B, h, w, C].
      scores: [B, h, w].

    Returns:
      [B, C] float32.
    """
    weighted = l2_normalize(features) * tf.cast(scores, tf.float32)[..., tf.newaxis]
    return tf.reduce_mean(weighted, axis=[1, 2])


@register
class Delf(RetrievalModel):
    """Local features of stage 4 with attention; a global descriptor by average pooling of stage 5.

    No gradient of the local branch reaches the backbone. PCA of the features to 40 dimensions is
    fitted after training and belongs to extraction.

    Args:
      backbone: a name of backbones.create.BACKBONES.
      attention_dim: hidden channels of the attention.
      **options: of the backbone and the preprocessing, see RetrievalModel.
    """

    output_names_available = ("global", "local")

    def __init__(
        self,
        backbone: str,
        *,
        attention_dim: int = 512,
        **options: Any,
    ):
        require(attention_dim > 0, "attention_dim must be positive.", attention_dim=attention_dim)
        super().__init__(backbone, **options)
        self.attention = Attention(attention_dim)

    @property
    def global_dim(self) -> int:
        """Width of the global descriptor."""
        return self.backbone.channels("stride32")

    @property
    def local_dim(self) -> int:
        """Width of local descriptors."""
        return self.backbone.channels("stride16")

    def embed(self, maps: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns the global descriptor before it is normalised, [B, global_dim] float32."""
        return spatial_mean(tf.cast(maps["stride32"], tf.float32))

    def local_map(self, maps: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns the stage 4 map behind the wall, [B, h, w, C]: its gradient stops there."""
        return tf.stop_gradient(maps["stride16"])

    def describe(self, target: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        """Returns "features" and "scores" of a local map, and "reconstruction" if there is one."""
        return {
            "features": tf.cast(target, tf.float32),
            "scores": self.attention(target, training=training),
        }

    def infer(
        self, images: tf.Tensor, training: bool, outputs: tuple[str, ...]
    ) -> dict[str, tf.Tensor]:
        """See RetrievalModel.call."""
        last = "stride32" if "global" in outputs else "stride16"
        maps = self.backbone(self.preprocess(images), training=training, last=last)
        result = {}
        if "global" in outputs:
            result["global"] = l2_normalize(self.embed(maps))
        if "local" in outputs:
            local = self.describe(self.local_map(maps), training)
            result["features"], result["scores"] = local["features"], local["scores"]
        return result

    def training_outputs(
        self, images: tf.Tensor, training: bool = True, step: str = "joint"
    ) -> dict[str, tf.Tensor]:
        """Computes what the losses need.

        Args:
          images: [B, H, W, 3] RGB, 0..255.
          training: whether batch normalisation uses the batch's statistics.
          step: static. "joint": both in one pass (DELG, and the original's trainer). The paper's
            two steps are "descriptor", which trains the backbone and leaves the attention out,
            then "attention", for which the backbone is frozen, its normalisation too.

        Returns:
          "embedding" [B, global_dim] (descriptor, joint): input of the descriptors' classifier,
            not normalised.
          "attention_pooled" [B, C] (attention, joint): input of the attention's classifier; mean
            of L2-normalised stage 4 features, behind stop-gradient, times their scores.
          "features" [B, h, w, local_dim] and "scores" [B, h, w] (attention, joint): as `call`.
          "reconstruction" and "reconstruction_target" [B, h, w, C] (attention, joint, if the model
            has an autoencoder): the target is behind stop-gradient.
          All float32.
        """
        require_choice("step", step, STEPS)
        last = "stride16" if step == "attention" else "stride32"
        in_training = training and step != "attention"
        maps = self.backbone(self.preprocess(images), training=in_training, last=last)
        result = {} if step == "attention" else {"embedding": self.embed(maps)}
        if step != "descriptor":
            target = self.local_map(maps)
            result.update(self.describe(target, training))
            result["attention_pooled"] = attention_pool(target, result["scores"])
            if "reconstruction" in result:
                result["reconstruction_target"] = tf.cast(target, tf.float32)
        return result
