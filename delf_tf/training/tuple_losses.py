"""Losses of batches made of tuples: each a query, its positive and K negatives in a row."""

from __future__ import annotations

import tensorflow as tf

from delf_tf.checks import require
from delf_tf.models.losses import functions as losses
from delf_tf.models.losses import superfeature_losses


def descriptor_tuple_loss(
    embeddings: tf.Tensor, tuple_size: int, *, margin: float | None
) -> tf.Tensor:
    """Returns float32 [B]: each image has an equal share of its tuple's contrastive loss.

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
