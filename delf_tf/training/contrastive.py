"""Supervised contrastive loss between the images of a batch, for sets with few images a class."""

from __future__ import annotations

import tensorflow as tf

from delf_tf.checks import require


def supervised_contrastive_loss(
    embeddings: tf.Tensor, labels: tf.Tensor, temperature: float = 0.1
) -> tf.Tensor:
    """Supervised contrastive loss (Khosla et al., NeurIPS 2020, arXiv 2004.11362, equation 2).

    Each image is to find the others of its class among the batch: the mean over them of the
    cross-entropy of their cosines / temperature.

    Args:
      embeddings: [B, D], not normalised.
      labels: integer [B].
      temperature: > 0.

    Returns:
      float32 [B]; 0 for an image without another of its class in the batch.
    """
    require(temperature > 0, "temperature must be positive.", temperature=temperature)
    unit = tf.math.l2_normalize(tf.cast(embeddings, tf.float32), axis=1, epsilon=1e-12)
    logits = tf.matmul(unit, unit, transpose_b=True) / temperature
    itself = tf.eye(tf.shape(labels)[0], dtype=tf.bool)
    # An image is not its own positive.
    logits = tf.where(itself, -1e9, logits)
    positive = tf.cast((labels[:, tf.newaxis] == labels) & ~itself, tf.float32)
    found = tf.reduce_sum(positive * tf.nn.log_softmax(logits, axis=1), axis=1)
    return -found / tf.maximum(tf.reduce_sum(positive, axis=1), 1.0)
