"""Losses and margins as pure TensorFlow functions.

Every loss is float32 of shape [B], one value an image (or a tuple of images), whatever the compute
dtype. The trainer divides its sum by the global batch, so that no loss depends on the number of
replicas. The classifiers that own class centres are in `classifiers`, the losses of super-features
in `superfeature_losses`.
"""

from __future__ import annotations

import math

import tensorflow as tf

from delf_tf.checks import require

# Below this 1 - cos^2 counts as 0: the sine's gradient is then 0 instead of infinite.
_MIN_SQUARED_SINE = 1e-12


def softmax_cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Cross-entropy of the true class; DELF's descriptor and attention losses, DELG's global one.

    Args:
      labels: integer [B], in 0..C-1. The caller checks the range: TensorFlow raises on CPU but
        gives NaN on accelerators.
      logits: [B, C].

    Returns:
      float32 [B], >= 0.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float32))


def reconstruction_loss(features: tf.Tensor, reconstruction: tf.Tensor) -> tf.Tensor:
    """Mean squared error of DELG's autoencoder (arXiv 2001.05027, eq. 5).

    No gradient flows into `features`: the autoencoder must not move the backbone.

    Args:
      features: [B, H, W, C], what is to be reconstructed.
      reconstruction: the same shape.

    Returns:
      float32 [B], mean over H, W and C.
    """
    target = tf.stop_gradient(tf.cast(features, tf.float32))
    squared = tf.math.squared_difference(tf.cast(reconstruction, tf.float32), target)
    return tf.reduce_mean(squared, axis=(1, 2, 3))


def distillation_loss(learnt: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Squared error of a map against a teacher's, relative to the teacher's energy in the batch.

    Romero et al.: FitNets (ICLR 2015, equation 3), scaled so that 1 is what a map of zeros gets,
    whatever the teacher's units.

    Args:
      learnt: [B, h, w, C].
      target: the same shape; no gradient flows into it.

    Returns:
      float32 [B].

    Raises:
      InputError: maps of other sizes.
    """
    require(
        learnt.shape[1:].is_compatible_with(target.shape[1:]),
        "Both maps must have the same shape.",
        learnt=learnt,
        target=target,
    )
    target = tf.stop_gradient(tf.cast(target, tf.float32))
    energy = tf.reduce_mean(tf.square(target)) + 1e-12
    squared = tf.math.squared_difference(tf.cast(learnt, tf.float32), target)
    return tf.reduce_mean(squared, axis=(1, 2, 3)) / energy


def arcface_logits(
    cosines: tf.Tensor, labels: tf.Tensor, margin: float = 0.1, scale: float = 45.25
) -> tf.Tensor:
    """ArcFace: the true class's angle θ becomes θ + margin (arXiv 1801.07698, eq. 3).

    As in DELG the margin is left out where θ > π - margin, so that the logit stays monotonic.

    Args:
      cosines: [B, C], clamped to [-1, 1] here.
      labels: integer [B]; a label outside 0..C-1 adds no margin.
      margin: radians, in [0, π).
      scale: multiplies the cosines.

    Returns:
      float32 [B, C], with finite gradients also at cosines of 1 and -1.
    """
    require_margin(margin, scale)
    cosines = _clamped(cosines)
    with_margin = tf.where(
        cosines >= math.cos(math.pi - margin), _add_angle(cosines, margin), cosines
    )
    return scale * tf.where(_is_true_class(labels, cosines), with_margin, cosines)


def curricularface_logits(
    cosines: tf.Tensor,
    labels: tf.Tensor,
    difficulty: tf.Tensor,
    margin: float = 0.15,
    scale: float = 30.0,
) -> tf.Tensor:
    """CurricularFace (arXiv 2004.00288, eq. 5 and 6), the loss that DOLG's release trained with.

    A wrong class nearer than the true one after the margin is hard: its cosine c becomes
    c (difficulty + c). The true class follows ArcFace, except where θ > π - margin, where its
    cosine is lowered by margin · sin(margin).

    Args:
      cosines: [B, C], clamped to [-1, 1] here.
      labels: integer [B].
      difficulty: scalar, the running mean of the true classes' cosines; no gradient flows into it.
      margin: radians, in [0, π).
      scale: multiplies the result.

    Returns:
      float32 [B, C].
    """
    require_margin(margin, scale)
    cosines = _clamped(cosines)
    true_cosine = true_class_values(cosines, labels)[:, tf.newaxis]
    with_margin = _add_angle(true_cosine, margin)
    wrong = tf.where(
        cosines > with_margin, cosines * (tf.stop_gradient(difficulty) + cosines), cosines
    )
    right = tf.where(
        true_cosine > math.cos(math.pi - margin),
        with_margin,
        true_cosine - margin * math.sin(margin),
    )
    return scale * tf.where(_is_true_class(labels, cosines), right, wrong)


def true_class_values(values: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns `values`[b, labels[b]] as [B], by a sum that every accelerator compiles."""
    return tf.reduce_sum(tf.where(_is_true_class(labels, values), values, 0.0), axis=1)


def contrastive_loss(
    query: tf.Tensor, positive: tf.Tensor, negatives: tf.Tensor, margin: float = 0.7
) -> tf.Tensor:
    """Contrastive loss of tuples of a query q, its positive p and K negatives n.

        L = ½ |q - p|² + Σₖ ½ max(0, margin - |q - nₖ|)²

    Radenović et al., TPAMI 2018 (arXiv 1711.02512), eq. 4; 0.7 is their margin for ResNet.

    Args:
      query: [B, D], L2-normalised.
      positive: [B, D].
      negatives: [B, K, D]; K may be 0.
      margin: a distance, > 0; negatives farther away cost nothing.

    Returns:
      float32 [B]. The gradient is 0 at images that coincide.

    Raises:
      InputError: the margin is not positive.
    """
    require(margin > 0, "contrastive_loss's margin must be positive.", margin=margin)
    to_positive = squared_distance(query, positive)
    to_negatives = safe_sqrt(squared_distance(query[:, tf.newaxis], negatives))
    gaps = tf.nn.relu(margin - to_negatives)
    return 0.5 * (to_positive + tf.reduce_sum(tf.square(gaps), axis=1))


def squared_distance(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Returns the squared Euclidean distance over the last axis, float32."""
    difference = tf.cast(first, tf.float32) - tf.cast(second, tf.float32)
    return tf.reduce_sum(tf.square(difference), axis=-1)


def safe_sqrt(squared: tf.Tensor) -> tf.Tensor:
    """Returns the square root whose gradient at 0 is 0, not infinite."""
    positive = squared > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, squared, 1.0)), 0.0)


def require_margin(margin: float, scale: float) -> None:
    """Refuses an angular margin outside [0, π) and a scale that is not positive."""
    require(0 <= margin < math.pi, "The angular margin must lie in [0, π).", margin=margin)
    require(scale > 0, "The logits' scale must be positive.", scale=scale)


def _clamped(cosines: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.cast(cosines, tf.float32), -1.0, 1.0)


def _add_angle(cosines: tf.Tensor, angle: float) -> tf.Tensor:
    # cos(θ + m) = cos θ cos m - sin θ sin m; (1 - c)(1 + c) keeps its digits near 1.
    squared_sines = tf.maximum((1.0 - cosines) * (1.0 + cosines), _MIN_SQUARED_SINE)
    return cosines * math.cos(angle) - tf.sqrt(squared_sines) * math.sin(angle)


def _is_true_class(labels: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    return tf.one_hot(labels, tf.shape(values)[1], on_value=True, off_value=False, dtype=tf.bool)
