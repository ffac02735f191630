"""Matching and losses of super-features (Weinzaepfel et al., ICLR 2022, arXiv 2201.13182, §3.2)."""

from __future__ import annotations

import tensorflow as tf

from delf_tf.checks import require
from delf_tf.models.losses.functions import safe_sqrt, squared_distance

# Of Lowe's test, and the distance from which on negatives cost nothing.
_MAX_RATIO, _MARGIN = 0.9, 1.1


def match_superfeatures(query: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """Tells which super-features of two images of one landmark match.

    Feature n of the query matches feature n of the positive, of the same template, if each is the
    other's nearest and the positive's is distinctive: its nearest distance is at most 0.9 times its
    second-nearest. The authors' release divides by the index of the second-nearest instead of its
    distance, which rejects almost nothing.

    Args:
      query: [..., N, D], L2-normalised, N >= 2.
      positive: [..., N, D].

    Returns:
      bool [..., N]; no gradient flows through it. The result has a static shape, as TPUs need.
    """
    distances = tf.stop_gradient(
        safe_sqrt(squared_distance(query[..., :, tf.newaxis, :], positive[..., tf.newaxis, :, :]))
    )
    # Rows are the positive's features from here on, so that top_k finds their neighbours.
    negated, nearest = tf.math.top_k(-tf.linalg.matrix_transpose(distances), k=2)
    ids = tf.range(tf.shape(distances)[-1])
    mutual = (nearest[..., 0] == ids) & (tf.argmin(distances, -1, output_type=tf.int32) == ids)
    first, second = -negated[..., 0], -negated[..., 1]
    return mutual & (first <= _MAX_RATIO * second)


def superfeature_contrastive_loss(
    query: tf.Tensor, positive: tf.Tensor, negatives: tf.Tensor, matched: tf.Tensor
) -> tf.Tensor:
    """Contrastive loss of the matched pairs and of the negatives' features of the same templates.

    Σ over matches of ½ d² to the positive and Σ ½ max(0, 1.1 - d)² to each negative (eq. 6).

    Args:
      query: [B, N, D], L2-normalised.
      positive: [B, N, D].
      negatives: [B, K, N, D].
      matched: bool [B, N], from `match_superfeatures`.

    Returns:
      float32 [B], a sum over matches; exactly 0, with zero gradients, where nothing matches.
    """
    to_positive = squared_distance(query, positive)
    to_negatives = safe_sqrt(squared_distance(query[:, tf.newaxis], negatives))
    pushed = tf.reduce_sum(tf.square(tf.nn.relu(_MARGIN - to_negatives)), axis=1)
    return 0.5 * tf.reduce_sum(tf.where(matched, to_positive + pushed, 0.0), axis=1)


def attention_decorrelation_loss(attention: tf.Tensor) -> tf.Tensor:
    """Mean cosine between the attention maps of different super-features of an image (eq. 8).

    Args:
      attention: [B, N, H, W], non-negative, N >= 2.

    Returns:
      float32 [B], in [0, 1]; 0 when no two maps overlap.
    """
    num_maps = attention.shape[1]
    require(
        num_maps is not None and num_maps > 1,
        "attention_decorrelation_loss needs at least 2 maps an image, their number static.",
        attention_shape=tuple(attention.shape),
    )
    shape = tf.shape(attention)
    flat = tf.reshape(tf.cast(attention, tf.float32), (shape[0], num_maps, shape[2] * shape[3]))
    cosines = tf.linalg.matmul(*[tf.math.l2_normalize(flat, axis=-1)] * 2, transpose_b=True)
    off_diagonal = tf.linalg.set_diag(cosines, tf.zeros_like(cosines[..., 0]))
    return tf.reduce_sum(off_diagonal, axis=(1, 2)) / (num_maps * (num_maps - 1))
