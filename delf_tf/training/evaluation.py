"""Computes mAP of the current weights during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from delf_tf.checks import require
from delf_tf.datasets import folder
from delf_tf.datasets.images import read_image
from delf_tf.evaluation.metrics import evaluate_ranking
from delf_tf.models.retrieval_model import RetrievalModel
from delf_tf.types import GlobalDescriptors, ImageRef, Ranking


class RetrievalEvaluation:
    """mAP of global descriptors over labelled images, each a query of all the others.

    Images are resized to squares without keeping their aspect ratio, so that one graph serves them
    all. The result is a little below that of extraction at full size.
    """

    def __init__(
        self,
        model: RetrievalModel,
        refs: Sequence[ImageRef],
        labels: Mapping[str, str],
        search: Callable[[GlobalDescriptors, GlobalDescriptors], Ranking],
        *,
        image_size: int,
        batch_size: int = 32,
    ):
        """Reads the images.

        Args:
          model: described with the weights it has at each call.
          refs: N images, all held in memory as uint8.
          labels: place by id; "" and ids without a place are distractors.
          search: ranks all images of a database for each query.
          image_size: pixels.
          batch_size: images described together.

        Raises:
          InputError: the model has no global descriptor, an image cannot be read, or no two images
            share a place.
        """
        require(
            "global" in model.output_names_available,
            "Evaluation while training needs a model with a global descriptor.",
            outputs=model.output_names_available,
        )
        ids = tuple(ref.id for ref in refs)
        queries = folder.labelled_queries(ids, labels)
        require(bool(queries), "Some place must have two images.", num_images=len(ids))
        self._ids, self._queries = ids, tuple(queries)
        self._truth = folder.ground_truth(queries, ids, labels)
        size = (image_size, image_size)
        self._images = np.stack([_squashed(read_image(ref), size) for ref in refs])
        self._batch_size, self._search = batch_size, search
        self._describe = tf.function(lambda images: model(images, outputs=("global",))["global"])

    def __call__(self) -> dict[str, float]:
        """Returns "mAP" and "P@1" of the current weights, in 0..1."""
        blocks = [
            self._describe(tf.constant(self._padded(start), tf.float32)).numpy()
            for start in range(0, len(self._ids), self._batch_size)
        ]
        vectors = np.concatenate(blocks)[: len(self._ids)]
        row_of = {one: row for row, one in enumerate(self._ids)}
        asked = vectors[[row_of[one] for one in self._queries]]
        ranking = self._search(
            GlobalDescriptors(self._ids, vectors), GlobalDescriptors(self._queries, asked)
        )
        metrics = evaluate_ranking(ranking, self._truth, ks=(1,))
        return {"mAP": metrics.mAP, "P@1": metrics.mP[1]}

    def _padded(self, start: int) -> np.ndarray:
        """A batch of constant size, so that one graph serves the last one too."""
        rows = np.arange(start, start + self._batch_size)
        return self._images[np.minimum(rows, len(self._images) - 1)]


def _squashed(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    resized = tf.image.resize(pixels, size, method="area").numpy()
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)
