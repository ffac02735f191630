"""The training objective: classifiers on a network's outputs, and the losses."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from delf_tf.checks import did_you_mean, invalid, require, require_choice
from delf_tf.models.losses import classifiers, superfeature_losses
from delf_tf.models.losses import functions as losses
from delf_tf.models.retrieval_model import RetrievalModel
from delf_tf.models.variables import variables_by_path
from delf_tf.training.batch_losses import (
    descriptor_tuple_loss,
    superfeature_pair_loss,
    superfeature_tuple_loss,
    supervised_contrastive_loss,
)
from delf_tf.training.optimizers import plain_variable

# Loss -> the output that it is computed from, and its usual weight.
LOSSES = {
    "descriptor": ("embedding", 1.0),
    "attention": ("attention_pooled", 1.0),
    "reconstruction": ("reconstruction", 10.0),
    "contrastive": ("embedding", 0.0),
    "superfeature": ("superfeatures", 0.0),
    "decorrelation": ("attention", 0.0),
    "distillation": ("distilled", 0.0),
    "tuple": ("embedding", 1.0),
}


class Objective:
    """The losses of a model's training outputs, each with its weight.

    "descriptor" is the cross-entropy of a classifier on "embedding", "attention" that of a softmax
    classifier on "attention_pooled", "reconstruction" the autoencoder's mean squared error.
    "contrastive" compares the embeddings of a replica's batch, which should hold several images of
    a class, or several crops of an image. "superfeature" takes images 2i and 2i + 1 of a batch for
    two pictures of one thing, and the next pairs for its negatives; "decorrelation" compares the
    super-features' attention maps. "distillation" compares a map with a teacher's, "tuple" the
    embeddings of mined tuples. An output that the model does not have has no loss.

    Attributes:
      model: the network.
      weights: loss name -> weight, of the losses that there are.
    """

    def __init__(
        self,
        model: RetrievalModel,
        num_classes: int,
        *,
        weights: Mapping[str, float] | None = None,
        classifier: str = "arcface",
        margin: float | None = None,
        scale: float | None = None,
        num_sampled: int = 0,
        step: str = "joint",
        teacher: RetrievalModel | None = None,
        tuple_size: int = 0,
        tuple_margin: float | None = None,
        seed: int = 0,
    ):
        """Makes the classifiers; under a strategy, within its scope.

        Args:
          model: built.
          num_classes: C.
          weights: of the losses by name; those that are not given are LOSSES' own.
          classifier: of the descriptor, a key of classifiers.CLASSIFIERS.
          margin: of "arcface" and "curricularface"; None for the class's own.
          scale: likewise.
          num_sampled: classes that a step sees, at least the batch of a replica; 0 for all.
          step: of DELF and DELG, see Delf.training_outputs.
          teacher: built; its stride-16 map is what "distilled" is to be. It does not learn.
          tuple_size: 2 + K if batches are made of tuples (a query, its positive and K negatives
            in a row), which "superfeature" and "tuple" then go by; else 0.
          tuple_margin: None for the loss's own.
          seed: of the classifiers' weights.

        Raises:
          InputError: no loss, or one that cannot be computed.
        """
        self.model = model
        self._tuple_size = tuple_size
        self._tuple_margin = tuple_margin
        self._teacher = teacher
        self._step = step
        outputs = self._outputs(tf.zeros([2, 64, 64, 3]), training=False)
        given = {name: usual for name, (_, usual) in LOSSES.items()} | dict(weights or {})
        for name in given:
            require_choice("loss", name, LOSSES)
        if not tuple_size:
            given["tuple"] = 0.0
        self.weights = {
            name: weight for name, weight in given.items() if weight and LOSSES[name][0] in outputs
        }
        require(bool(self.weights), "The model's outputs must have a loss.", outputs=list(outputs))
        if "distillation" in self.weights:
            self._require_teacher(outputs["distilled"])
        if "tuple" in self.weights:
            # Refuses a margin out of range now, not after the first epoch is mined.
            descriptor_tuple_loss(tf.zeros([tuple_size, 1]), tuple_size, margin=tuple_margin)
        options = {"margin": margin, "scale": scale} if classifier != "softmax" else {}
        options = {key: value for key, value in options.items() if value is not None}
        self.heads: dict[str, tf.keras.layers.Layer] = {}
        for name, kind in (("descriptor", classifier), ("attention", "softmax")):
            if name in self.weights:
                own = options if name == "descriptor" else {}
                head = classifiers.create_classifier(
                    kind, num_classes, num_sampled=num_sampled, **own
                )
                head.build((None, int(outputs[LOSSES[name][0]].shape[-1])))
                self.heads[name] = head
        self._draw(seed)

    @property
    def variables(self) -> dict[str, Any]:
        """All weights, of the model as "model/PATH", of a classifier as "heads/NAME/PATH"."""
        found = {f"model/{p}": v for p, v in variables_by_path(self.model).items()}
        for name, head in self.heads.items():
            found.update({f"heads/{name}/{p}": v for p, v in variables_by_path(head).items()})
        return found

    def trainable_variables(self, beginnings: Sequence[str] = ()) -> dict[str, Any]:
        """Returns the weights that a step may change.

        Args:
          beginnings: of paths in the model; none takes all. Classifiers always train.

        Raises:
          InputError: no path begins so.
        """
        layers = [self.model, *self.heads.values()]
        trainable = {id(plain_variable(v)) for layer in layers for v in layer.trainable_weights}
        found = {p: v for p, v in self.variables.items() if id(plain_variable(v)) in trainable}
        for beginning in beginnings:
            if not any(path.startswith(f"model/{beginning}") for path in found):
                parts = sorted({path.split("/", 1)[1].split(".")[0] for path in found})
                raise invalid(
                    "trainable must begin the path of a variable that can be trained.",
                    hint=f"{did_you_mean(beginning, parts)} The model's parts: {', '.join(parts)}.",
                    trainable=beginning,
                )
        if not beginnings:
            return found
        chosen = tuple(f"model/{one}" for one in beginnings)
        return {p: v for p, v in found.items() if p.startswith((*chosen, "heads/"))}

    def __call__(
        self, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor | None = None
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Computes the losses of a batch, in training.

        Args:
          images: [B, H, W, 3] RGB, 0..255.
          labels: integer [B].
          seed: int32 [2], of the sampling of classes.

        Returns:
          Loss name -> float32 [B] (pairs of images have half of their loss each), not weighted; and
          float32 [B], 1 where a classifier (the descriptor's if there is one) is right.
        """
        outputs = self._outputs(images, training=True)
        result: dict[str, tf.Tensor] = {}
        correct = tf.zeros(tf.shape(labels), tf.float32)
        for name in ("attention", "descriptor"):
            if name in self.heads:
                pooled = outputs[LOSSES[name][0]]
                result[name], correct = self._classify(name, pooled, labels, seed)
        if "reconstruction" in self.weights:
            result["reconstruction"] = losses.reconstruction_loss(
                outputs["reconstruction_target"], outputs["reconstruction"]
            )
        if "contrastive" in self.weights:
            result["contrastive"] = supervised_contrastive_loss(outputs["embedding"], labels)
        if "superfeature" in self.weights:
            features = outputs["superfeatures"]
            result["superfeature"] = (
                superfeature_tuple_loss(features, self._tuple_size)
                if self._tuple_size
                else superfeature_pair_loss(features)
            )
        if "decorrelation" in self.weights:
            result["decorrelation"] = superfeature_losses.attention_decorrelation_loss(
                outputs["attention"]
            )
        if "tuple" in self.weights:
            result["tuple"] = descriptor_tuple_loss(
                outputs["embedding"], self._tuple_size, margin=self._tuple_margin
            )
        if "distillation" in self.weights:
            target = self._teacher_map(images)
            result["distillation"] = losses.distillation_loss(outputs["distilled"], target)
        return result, correct

    def _teacher_map(self, images: tf.Tensor) -> tf.Tensor:
        pixels = self._teacher.preprocess(images)
        maps = self._teacher.backbone(pixels, training=False, last="stride16")
        return tf.stop_gradient(tf.cast(maps["stride16"], tf.float32))

    def _require_teacher(self, distilled: tf.Tensor) -> None:
        require(
            self._teacher is not None,
            "Distillation must have a teacher.",
            hint="Set training.losses.teacher, or distillation_weight: 0.",
            teacher=None,
        )
        width = self._teacher_map(tf.zeros([1, 64, 64, 3])).shape[-1]
        require(
            distilled.shape[-1] == width,
            "The learnt map must have as many channels as the teacher's.",
            learnt=distilled.shape[-1],
            teacher=width,
        )

    def _outputs(self, images: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        takes_step = "step" in inspect.signature(self.model.training_outputs).parameters
        require(
            takes_step or self._step == "joint",
            "Only DELF and DELG are trained in steps.",
            step=self._step,
            model=self.model.options["name"] if self.model.options else None,
        )
        options: Mapping[str, Any] = {"step": self._step} if takes_step else {}
        return self.model.training_outputs(images, training=training, **options)

    def _classify(
        self, name: str, pooled: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        head = self.heads[name]
        logits, targets = head(pooled, labels, training=True, seed=seed)
        loss = losses.softmax_cross_entropy(targets, logits)
        if not head.num_sampled:
            # A margin hides what is right: accuracy is that of the plain logits.
            logits, targets = head(pooled, labels, training=False)
        right = tf.argmax(logits, axis=1, output_type=tf.int32) == tf.cast(targets, tf.int32)
        return loss, tf.cast(right, tf.float32)

    def _draw(self, seed: int) -> None:
        """Sets the class centres from the seed and their name alone (Glorot and Bengio, 2010)."""
        for path, variable in self.variables.items():
            if path.endswith("class_centres"):
                random = np.random.RandomState(zlib.crc32(f"{seed}/{path}".encode()))
                bound = np.sqrt(6.0 / sum(variable.shape))
                drawn = random.random_sample(tuple(variable.shape)).astype(np.float32)
                variable.assign((drawn * 2 - 1) * np.float32(bound))
