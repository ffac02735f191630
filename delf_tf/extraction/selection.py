"""Which cells of the feature maps become local features."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def receptive_boxes(locations: tf.Tensor, scales: tf.Tensor, side_px: float) -> tf.Tensor:
    """Returns the receptive boxes [N, 4], (y0, x0, y1, x1), of features.

    Args:
      locations: [N, 2], centres, (y, x).
      scales: [N], factors of the side.
      side_px: at scale 1.
    """
    half = side_px / 2.0 * scales[:, tf.newaxis]
    return tf.concat([locations - half, locations + half], axis=1)


def select(
    scores: tf.Tensor,
    boxes: tf.Tensor,
    *,
    max_num_features: int | tf.Tensor,
    score_threshold: float | tf.Tensor,
    nms_iou: float,
) -> tf.Tensor:
    """Chooses features over all scales together, strongest first (Noh et al. 2017, section 4.1).

    Args:
      scores: float32 [N], attention.
      boxes: float32 [N, 4], receptive boxes (y0, x0, y1, x1) in pixels of one image.
      max_num_features: most features kept.
      score_threshold: lower scores are dropped.
      nms_iou: a feature is dropped if its box overlaps a kept one's by more than this intersection
        over union; 1 or more keeps all, which makes the selection a plain top-K.

    Returns:
      int32 [M], rows, by falling score; equal scores keep their order.
    """
    if nms_iou >= 1.0:
        passing = scores >= score_threshold
        limit = tf.minimum(max_num_features, tf.reduce_sum(tf.cast(passing, tf.int32)))
        return tf.math.top_k(tf.where(passing, scores, -np.inf), k=limit).indices
    passing = tf.reshape(tf.where(scores >= score_threshold), [-1])
    passing_scores = tf.gather(scores, passing)
    limit = tf.minimum(max_num_features, tf.shape(passing_scores)[0])
    chosen = tf.image.non_max_suppression(
        tf.gather(boxes, passing), passing_scores, limit, iou_threshold=nms_iou
    )
    return tf.cast(tf.gather(passing, chosen), tf.int32)
