"""Classification heads that own class centres: softmax, ArcFace, CurricularFace.

All compute in float32 under any policy. Called with labels they return (logits, targets), where
`targets` are the columns of the true classes: with `num_sampled` set, training sees only the
batch's classes and random others, so that 203,094 classes fit one accelerator (Partial FC,
arXiv 2203.15565).
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from delf_tf.checks import require, require_choice
from delf_tf.models.layers import register
from delf_tf.models.losses import functions as losses

_KERAS_3 = hasattr(tf.keras, "ops")


def sample_classes(
    labels: tf.Tensor, num_classes: int, num_sampled: int, seed: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws distinct classes that include all of the batch's.

    Args:
      labels: integer [B], in 0..num_classes-1.
      num_classes: C.
      num_sampled: K, with B <= K <= C.
      seed: int32 [2], such as (seed, step), for draws that a resumed run repeats; None for
        TensorFlow's global generator.

    Returns:
      classes: int32 [K], distinct.
      targets: int32 [B], classes[targets] == labels.
    """
    if seed is None:
        priority = tf.random.uniform((num_classes,))
    else:
        priority = tf.random.stateless_uniform((num_classes,), seed, alg="philox")
    labels = tf.cast(labels, tf.int32)
    # Uniform draws lie in [0, 1), so that 2 puts the batch's own classes first.
    priority = tf.tensor_scatter_nd_update(
        priority, labels[:, tf.newaxis], tf.fill(tf.shape(labels), 2.0)
    )
    classes = tf.math.top_k(priority, num_sampled, sorted=False).indices
    hits = tf.cast(labels[:, tf.newaxis] == classes[tf.newaxis], tf.int32)
    return classes, tf.argmax(hits, axis=1, output_type=tf.int32)


class _Classifier(tf.keras.layers.Layer):
    """Class centres [C, D] and the choice of those that a step uses."""

    def __init__(self, num_classes: int, num_sampled: int = 0, **kwargs: Any):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        require(num_classes >= 1, "num_classes must be at least 1.", num_classes=num_classes)
        require(
            0 <= num_sampled <= num_classes,
            "num_sampled must lie in 0..num_classes; 0 uses every class.",
            num_sampled=num_sampled,
            num_classes=num_classes,
        )
        self.num_classes, self.num_sampled = int(num_classes), int(num_sampled)

    def build(self, input_shape: Any) -> None:
        """Makes the class centres, [C, D]."""
        self.class_centres = self.add_weight(
            name="class_centres",
            shape=(self.num_classes, int(input_shape[-1])),
            initializer="glorot_uniform",
            trainable=True,
        )
        self.built = True

    def call(
        self,
        embeddings: tf.Tensor,
        labels: tf.Tensor | None = None,
        training: bool | None = None,
        seed: tf.Tensor | None = None,
    ) -> Any:
        """Classifies.

        Args:
          embeddings: [B, D].
          labels: integer [B], in 0..C-1, or None.
          training: whether margins and the sampling of classes are on; needs labels.
          seed: int32 [2] for the sampling, see `sample_classes`.

        Returns:
          float32 logits [B, C] without labels; with them (logits, targets int32 [B]), logits
          [B, num_sampled] in training if classes are sampled.
        """
        embeddings = tf.cast(embeddings, tf.float32)
        if labels is None:
            return self._logits(embeddings, None)
        labels = tf.cast(labels, tf.int32)
        if not training:
            return self._logits(embeddings, None), labels
        if not self.num_sampled:
            return self._training_logits(embeddings, None, labels), labels
        self._require_room(labels)
        classes, targets = sample_classes(labels, self.num_classes, self.num_sampled, seed)
        return self._training_logits(embeddings, classes, targets), targets

    def _chosen(self, weight: tf.Variable, classes: tf.Tensor | None) -> tf.Tensor:
        # Gathered before any arithmetic, so that the gradient is sparse.
        return tf.convert_to_tensor(weight) if classes is None else tf.gather(weight, classes)

    def _logits(self, embeddings: tf.Tensor, classes: tf.Tensor | None) -> tf.Tensor:
        raise TypeError(f"{type(self).__name__} must define _logits.")

    def _training_logits(
        self, embeddings: tf.Tensor, classes: tf.Tensor | None, targets: tf.Tensor
    ) -> tf.Tensor:
        del targets  # A head without a margin treats the true class like the others.
        return self._logits(embeddings, classes)

    def _require_room(self, labels: tf.Tensor) -> None:
        batch = labels.shape[0]
        require(
            batch is None or batch <= self.num_sampled,
            "num_sampled must be at least the batch on a device, whose classes are all used.",
            num_sampled=self.num_sampled,
            batch=batch,
        )


@register
class SoftmaxClassifier(_Classifier):
    """A plain linear classifier with bias, as DELF's descriptor and attention steps use."""

    def build(self, input_shape: Any) -> None:
        """Makes the class centres and a bias a class."""
        self.bias = self.add_weight(
            name="bias", shape=(self.num_classes,), initializer="zeros", trainable=True
        )
        super().build(input_shape)

    def _logits(self, embeddings: tf.Tensor, classes: tf.Tensor | None) -> tf.Tensor:
        centres = self._chosen(self.class_centres, classes)
        return tf.matmul(embeddings, centres, transpose_b=True) + self._chosen(self.bias, classes)


class _CosineClassifier(_Classifier):
    def __init__(self, num_classes: int, margin: float, scale: float, **kwargs: Any):
        super().__init__(num_classes, **kwargs)
        losses.require_margin(margin, scale)
        self.margin, self.scale = float(margin), float(scale)

    def _cosines(self, embeddings: tf.Tensor, classes: tf.Tensor | None) -> tf.Tensor:
        centres = tf.math.l2_normalize(self._chosen(self.class_centres, classes), axis=1)
        return tf.matmul(tf.math.l2_normalize(embeddings, axis=1), centres, transpose_b=True)

    def _logits(self, embeddings: tf.Tensor, classes: tf.Tensor | None) -> tf.Tensor:
        return self.scale * tf.clip_by_value(self._cosines(embeddings, classes), -1.0, 1.0)


@register
class ArcFaceClassifier(_CosineClassifier):
    """ArcFace (arXiv 1801.07698) as DELG trains it; see `losses.arcface_logits`."""

    def __init__(self, num_classes: int, margin: float = 0.1, scale: float = 45.25, **kwargs: Any):
        super().__init__(num_classes, margin, scale, **kwargs)

    def _training_logits(
        self, embeddings: tf.Tensor, classes: tf.Tensor | None, targets: tf.Tensor
    ) -> tf.Tensor:
        cosines = self._cosines(embeddings, classes)
        return losses.arcface_logits(cosines, targets, self.margin, self.scale)


@register
class CurricularFaceClassifier(_CosineClassifier):
    """CurricularFace (arXiv 2004.00288), in DOLG's release called ArcFace.

    `difficulty` runs as 0.01 · (mean cosine of the true classes over all replicas) + 0.99 · itself,
    updated before each training step's logits.
    """

    def __init__(self, num_classes: int, margin: float = 0.15, scale: float = 30.0, **kwargs: Any):
        super().__init__(num_classes, margin, scale, **kwargs)

    def build(self, input_shape: Any) -> None:
        """Makes the class centres and the running difficulty."""
        first = "only_first_replica" if _KERAS_3 else tf.VariableAggregation.ONLY_FIRST_REPLICA
        self.difficulty = self.add_weight(
            name="difficulty", shape=(), initializer="zeros", trainable=False, aggregation=first
        )
        super().build(input_shape)

    def _training_logits(
        self, embeddings: tf.Tensor, classes: tf.Tensor | None, targets: tf.Tensor
    ) -> tf.Tensor:
        cosines = self._cosines(embeddings, classes)
        true_cosines = losses.true_class_values(tf.clip_by_value(cosines, -1.0, 1.0), targets)
        mean = _mean_over_replicas(tf.reduce_mean(tf.stop_gradient(true_cosines)))
        difficulty = 0.01 * mean + 0.99 * tf.convert_to_tensor(self.difficulty)
        self.difficulty.assign(difficulty)
        return losses.curricularface_logits(cosines, targets, difficulty, self.margin, self.scale)


CLASSIFIERS = {
    "softmax": SoftmaxClassifier,
    "arcface": ArcFaceClassifier,
    "curricularface": CurricularFaceClassifier,
}


def create_classifier(name: str, num_classes: int, **options: Any) -> tf.keras.layers.Layer:
    """Returns the classifier of `CLASSIFIERS` called `name`, with its constructor's `options`."""
    require_choice("classifier", name, CLASSIFIERS)
    return CLASSIFIERS[name](num_classes, **options)


def _mean_over_replicas(value: tf.Tensor) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, value)
