"""A network of two convolutions with every kind of training output, for tests of training."""

from __future__ import annotations

import tensorflow as tf

from delf_tf.models.delf import Attention, attention_pool
from delf_tf.models.delg import Autoencoder
from delf_tf.models.layers import ConvNorm, GeneralizedMean, dense, l2_normalize
from delf_tf.models.retrieval_model import RetrievalModel


class TinyModel(RetrievalModel):
    output_names_available = ("global",)

    def __init__(self, embedding_dim=8):
        backbone = ConvNorm(8, 3, 2, padding="symmetric", activation="relu")
        super().__init__(backbone, {"mean": [128.0] * 3, "std": [64.0] * 3})
        self.second = ConvNorm(12, 3, 2, padding="symmetric", activation="relu")
        self.pooling = GeneralizedMean(3.0, learnable=True)
        self.whitening = dense(embedding_dim)
        self.attention = Attention(6)
        self.autoencoder = Autoencoder(4, 12)

    def build(self, input_shape):
        # Layers are built by `initialize`.
        self.built = True

    def infer(self, images, training, outputs):
        del outputs
        return {"global": l2_normalize(self.training_outputs(images, training)["embedding"])}

    def training_outputs(self, images, training=True):
        maps = self.backbone(self.preprocess(images), training=training)
        maps = self.second(maps, training=training)
        target = tf.stop_gradient(maps)
        _, rebuilt = self.autoencoder(target)
        scores = self.attention(rebuilt, training=training)
        return {
            "embedding": tf.cast(self.whitening(self.pooling(maps)), tf.float32),
            "attention_pooled": attention_pool(target, scores),
            "reconstruction": tf.cast(rebuilt, tf.float32),
            "reconstruction_target": tf.cast(target, tf.float32),
        }

    def initialize(self, seed=None):
        self.training_outputs(tf.zeros([1, 16, 16, 3]), training=False)
        super().initialize(seed)


def make(embedding_dim=8):
    return TinyModel(embedding_dim)
