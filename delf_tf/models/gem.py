"""A classification backbone used as it is: generalised-mean pooling of its last map."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from delf_tf.models.backbones.create import create_backbone
from delf_tf.models.layers import GeneralizedMean, l2_normalize, register
from delf_tf.models.retrieval_model import RetrievalModel


@register
class Gem(RetrievalModel):
    """Radenović, Tolias, Chum: Fine-tuning CNN Image Retrieval, TPAMI 2019, without whitening.

    The global descriptor is the generalised mean of the deepest map. Local features are the cells
    of the stride-16 map, scored by their norm: what a network has before an attention is trained.

    Args:
      backbone: a name of backbones.create.BACKBONES.
      gem_power: exponent p of the pooling, positive.
      backbone_form: see resnet.FORMS; None: the backbone's default.
      width_multiplier: of the backbone's channels; None: 1.
      preprocessing: arguments of layers.Preprocessing; None: what the backbone's published weights
        expect.
    """

    output_names_available = ("global", "local")

    def __init__(
        self,
        backbone: str,
        *,
        gem_power: float = 3.0,
        backbone_form: str | None = None,
        width_multiplier: float | None = None,
        preprocessing: dict[str, Any] | None = None,
    ):
        network, usual = create_backbone(backbone, backbone_form, width_multiplier)
        super().__init__(network, preprocessing or usual)
        self.pooling = GeneralizedMean(gem_power)

    @property
    def global_dim(self) -> int:
        """Channels of the deepest map."""
        return self.backbone.channels(self.backbone.levels[-1])

    @property
    def local_dim(self) -> int:
        """Channels of the stride-16 map."""
        return self.backbone.channels("stride16")

    def infer(
        self, images: tf.Tensor, training: bool, outputs: tuple[str, ...]
    ) -> dict[str, tf.Tensor]:
        """See RetrievalModel.call."""
        deepest = self.backbone.levels[-1]
        last = deepest if "global" in outputs else "stride16"
        maps = self.backbone(self.preprocess(images), training=training, last=last)
        result = {}
        if "global" in outputs:
            result["global"] = l2_normalize(self.pooling(maps[deepest]))
        if "local" in outputs:
            features = tf.cast(maps["stride16"], tf.float32)
            result["features"] = features
            result["scores"] = tf.norm(features, axis=-1)
        return result

    def training_outputs(self, images: tf.Tensor, training: bool = True) -> dict[str, tf.Tensor]:
        """Returns {"embedding": [B, D]}: the pooled map before it is normalised."""
        deepest = self.backbone.levels[-1]
        maps = self.backbone(self.preprocess(images), training=training, last=deepest)
        return {"embedding": self.pooling(maps[deepest])}
