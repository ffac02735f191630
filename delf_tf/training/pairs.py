"""Pairs of images to train a similarity of local features on, and the objective that compares them.

`training.trainer.Trainer` takes them in place of an InputPipeline and an Objective.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from delf_tf.checks import require
from delf_tf.datasets import folder
from delf_tf.models.variables import variables_by_path
from delf_tf.types import LocalFeatures, Ranking

_NUM_NEGATIVES = 20


@dataclasses.dataclass(frozen=True)
class Anchor:
    """An image, those of the same place, and those that are like it but of another.

    Attributes:
      image: its id.
      positives: ids, one or more.
      negatives: ids, one to twenty, the most similar first.
    """

    image: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


def find_anchors(ranking: Ranking, labels: Mapping[str, str]) -> list[Anchor]:
    """Returns the images of a ranking that have positives and hard negatives.

    Args:
      ranking: of global descriptors, of images searched among themselves.
      labels: place by image; images without one are negatives only.

    Raises:
      InputError: no image has both.
    """
    ids = ranking.database_ids
    asked = folder.places(ranking.query_ids, labels)
    places = np.array(folder.places(ids, labels), dtype=object)
    of_place: dict[str, list[str]] = {}
    for name, place in zip(ids, places):
        of_place.setdefault(place, []).append(name)
    anchors = []
    for query, (name, place) in enumerate(zip(ranking.query_ids, asked)):
        rows = ranking.indices[query]
        rows = rows[rows >= 0]
        negatives = rows[places[rows] != place][:_NUM_NEGATIVES]
        positives = tuple(one for one in of_place.get(place, ()) if one != name) if place else ()
        if positives and len(negatives):
            anchors.append(Anchor(name, positives, tuple(ids[row] for row in negatives)))
    require(
        bool(anchors),
        "Some image must have another of its place, and one of another place in its ranking.",
        hint="Search the images among themselves, and label their places.",
        num_images=len(ids),
    )
    return anchors


@dataclasses.dataclass(frozen=True)
class PairPipeline:
    """Endless batches of pairs of local features; each follows from the seed and its step alone.

    Every second pair shows one place; the pair after it has the same anchor and a negative.

    Attributes:
      anchors: see `find_anchors`.
      read: gives an image's local features by its id.
      batch_size: pairs of a step over all replicas, an even number.
      descriptor_dim: D.
      min_num_features: of an image in a batch; drawn for each step.
      max_num_features: likewise.
      seed: of all draws.
    """

    anchors: Sequence[Anchor]
    read: Callable[[str], LocalFeatures]
    batch_size: int
    descriptor_dim: int
    min_num_features: int = 100
    max_num_features: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        even = self.batch_size > 0 and self.batch_size % 2 == 0
        require(even, "batch_size must be even and positive.", batch_size=self.batch_size)
        sizes = {"least": self.min_num_features, "most": self.max_num_features}
        must = "min_num_features must be at least 1 and at most max_num_features."
        require(1 <= sizes["least"] <= sizes["most"], must, **sizes)

    def dataset(
        self, step: int = 0, *, worker: int = 0, num_workers: int = 1, num_replicas: int = 1
    ) -> tf.data.Dataset:
        """Returns (float32 [b, 2, N, D], int64 [b], 1 where both show one place) from `step` on.

        Rows of zeros are padding. The arguments and b are those of InputPipeline.dataset.

        Raises:
          InputError: the batch does not divide evenly.
        """
        parts = num_workers * num_replicas
        require(
            self.batch_size % parts == 0,
            "batch_size must be a multiple of the number of replicas of all workers.",
            batch_size=self.batch_size,
            num_replicas=parts,
        )
        size = self.batch_size // parts

        def load(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            part = worker * num_replicas + number % num_replicas
            pairs, labels = tf.numpy_function(
                lambda step, part: self._part(int(step), int(part) * size, size),
                (number // num_replicas, part),
                (tf.float32, tf.int64),
            )
            pairs.set_shape((size, 2, None, self.descriptor_dim))
            labels.set_shape((size,))
            return pairs, labels

        numbers = tf.data.Dataset.range(step * num_replicas, tf.int64.max)
        return numbers.map(load, num_parallel_calls=2, deterministic=True).prefetch(2)

    def batch_ids(self, step: int) -> list[str]:
        """Returns what a step compares, in the batch's order."""
        return [" and ".join(pair) for pair in self._draw(step)[0]]

    def _draw(self, step: int) -> tuple[list[tuple[str, str]], int]:
        """Returns a step's pairs and the number of features of each image."""
        random = np.random.default_rng([self.seed, step])
        num = int(random.integers(self.min_num_features, self.max_num_features, endpoint=True))
        pairs = []
        for row in random.integers(len(self.anchors), size=self.batch_size // 2):
            anchor = self.anchors[row]
            of_both = (anchor.positives, anchor.negatives)
            pairs += [(anchor.image, one[random.integers(len(one))]) for one in of_both]
        return pairs, num

    def _part(self, step: int, start: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        pairs, num = self._draw(step)
        kept = [
            self._features(name, num, np.random.default_rng([self.seed, step, row, side]), row)
            for row in range(start, start + size)
            for side, name in enumerate(pairs[row])
        ]
        found = np.zeros((2 * size, max(map(len, kept)), self.descriptor_dim), np.float32)
        for row, one in enumerate(kept):
            found[row, : len(one)] = one
        labels = (np.arange(start, start + size) + 1) % 2
        return found.reshape(size, 2, -1, self.descriptor_dim), labels

    def _features(self, name: str, num: int, random: np.random.Generator, row: int) -> np.ndarray:
        """Returns up to `num` descriptors of an image."""
        features = self.read(name)
        order = np.argsort(-features.scores, kind="stable")
        # Half of the pairs have the strongest, as when they are compared later.
        if row // 2 % 2:
            order = random.permutation(order[: 2 * num])
        return features.descriptors[order[:num]]


class PairObjective:
    """Binary cross-entropy of a similarity's logit, as `training.trainer.Trainer` takes one.

    Attributes:
      model: the network, of `models.similarity.create`.
      weights: of the losses.
      heads: none, as no classifier learns.
    """

    def __init__(
        self,
        model: tf.keras.layers.Layer,
        teacher: tf.keras.layers.Layer | None = None,
        distillation_weight: float = 0.0,
    ):
        """Takes a network and the teacher that it is to follow, if there is one.

        Args:
          model: built.
          teacher: built; it does not learn.
          distillation_weight: of the squared distance to the teacher's logits.

        Raises:
          InputError: a teacher of features of another width.
        """
        self.model, self._teacher = model, teacher
        self.weights = {"similarity": 1.0}
        self.heads: dict[str, Any] = {}
        if teacher is not None:
            self.weights["distillation"] = distillation_weight
            dims = [one.options["kwargs"]["descriptor_dim"] for one in (model, teacher)]
            must = "A teacher must have learned from features of the same width."
            require(dims[0] == dims[1], must, descriptor_dim=dims[0], of_teacher=dims[1])

    @property
    def variables(self) -> dict[str, Any]:
        """All weights, as "model/PATH"."""
        return {f"model/{path}": one for path, one in variables_by_path(self.model).items()}

    def __call__(
        self, pairs: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Returns the losses, each [B], and whether each pair is told right, float32 [B]."""
        del seed
        logit = self.model.logit(self.model(pairs, training=True))
        truth = tf.cast(labels, tf.float32)
        losses = {"similarity": tf.nn.sigmoid_cross_entropy_with_logits(truth, logit)}
        if self._teacher is not None:
            wanted = tf.stop_gradient(self._teacher.logit(self._teacher(pairs)))
            losses["distillation"] = tf.math.squared_difference(logit, wanted)
        return losses, tf.cast((logit > 0) == (labels > 0), tf.float32)
