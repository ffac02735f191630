"""Losses between the images of a batch: of classes, of pairs, and of mined tuples."""

from __future__ import annotations

import tensorflow as tf

from delf_tf.checks import require
from delf_tf.models.losses import functions as losses
from delf_tf.models.losses import superfeature_losses

_TEMPERATURE = 0.1


def supervised_contrastive_loss(embeddings: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Supervised contrastive loss (Khosla et al., NeurIPS 2020, arXiv 2004.11362, equation 2).

    Each image is to find the others of its class among the batch: the mean over them of the
    cross-entropy of their cosines / _TEMPERATURE.

    Args:
      embeddings: [B, D], not normalised.
      labels: integer [B].

    Returns:
      float32 [B]; 0 for an image without another of its class in the batch.
    """
    unit = tf.math.l2_normalize(tf.cast(embeddings, tf.float32), axis=1, epsilon=1e-12)
    logits = tf.matmul(unit, unit, transpose_b=True) / _TEMPERATURE
    itself = tf.eye(tf.shape(labels)[0], dtype=tf.bool)
    # An image is not its own positive.
    logits = tf.where(itself, -1e9, logits)
    positive = tf.cast((labels[:, tf.newaxis] == labels) & ~itself, tf.float32)
    found = tf.reduce_sum(positive * tf.nn.log_softmax(logits, axis=1), axis=1)
    return -found / tf.maximum(tf.reduce_sum(positive, axis=1), 1.0)


def superfeature_pair_loss(features: tf.Tensor) -> tf.Tensor:
    """Returns float32 [B]: each image has half of its pair's contrastive loss.

    Args:
      features: super-features [B, N, D], L2-normalised. Pairs lie next to each other; the negatives
        of a pair are the queries of the next five.
    """
    query, positive = features[0::2], features[1::2]
    matched = superfeature_losses.match_superfeatures(query, positive)
    num_pairs = query.shape[0]
    negatives = tf.stack(
        [tf.roll(query, shift, axis=0) for shift in range(1, min(num_pairs, 6))], axis=1
    )
    loss = superfeature_losses.superfeature_contrastive_loss(query, positive, negatives, matched)
    return _shared(loss, 2)


def descriptor_tuple_loss(
    embeddings: tf.Tensor, tuple_size: int, *, margin: float | None
) -> tf.Tensor:
    """Returns float32 [B]: each image has an equal share of its tuple's contrastive loss.

    A tuple is a query, its positive and K negatives in a row.

    Args:
      embeddings: [B, D], not normalised; B is static, a multiple of `tuple_size`.
      tuple_size: 2 + K.
      margin: None for the loss's own.
    """
    unit = tf.math.l2_normalize(tf.cast(embeddings, tf.float32), axis=1, epsilon=1e-12)
    options = {} if margin is None else {"margin": margin}
    return _shared(losses.contrastive_loss(*_parts(unit, tuple_size), **options), tuple_size)


def superfeature_tuple_loss(features: tf.Tensor, tuple_size: int) -> tf.Tensor:
    """Likewise of super-features [B, N, D], L2-normalised, by the matches of query and positive."""
    query, positive, negatives = _parts(features, tuple_size)
    matched = superfeature_losses.match_superfeatures(query, positive)
    loss = superfeature_losses.superfeature_contrastive_loss(query, positive, negatives, matched)
    return _shared(loss, tuple_size)


def _parts(values: tf.Tensor, tuple_size: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    num_images = values.shape[0]
    require(
        num_images is not None and num_images % tuple_size == 0,
        "Each replica's batch must consist of whole tuples.",
        hint="Make batch_size a multiple of 2 + num_negatives times the number of replicas.",
        num_images=num_images,
        tuple_size=tuple_size,
    )
    tuples = tf.reshape(values, (num_images // tuple_size, tuple_size, *values.shape[1:]))
    return tuples[:, 0], tuples[:, 1], tuples[:, 2:]


def _shared(loss: tf.Tensor, tuple_size: int) -> tf.Tensor:
    return tf.repeat(loss / tuple_size, tuple_size)
