"""The Extractor: pyramid, model and selection as one graph, used by the engine and by export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from delf_tf.checks import require
from delf_tf.extraction import folding, selection
from delf_tf.extraction.backends.precision import FLOAT32
from delf_tf.extraction.levels import pyramid_level
from delf_tf.extraction.settings import (
    LOCAL_NAMES,
    OFFSET_PERIOD,
    BaseExtractor,
    ExtractionSettings,
    Projection,
    offset_table,
)
from delf_tf.models.retrieval_model import RetrievalModel

# Locations [B, N, 2], descriptors [B, N, D] and scores [B, N] of one scale.
Rows = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


class Extractor(BaseExtractor, tf.Module):
    """Turns one upright RGB image into a global descriptor and local features.

    The model runs once a pyramid scale. Local descriptors of all scales compete for the best
    `max_num_features`; they are L2-normalised, projected, and normalised again (Noh et al. 2017,
    section 4.3). Super-features are local features, too: their strength is the score, the centre of
    mass of their attention the location. Global descriptors are summed over their scales and
    normalised (Cao et al. 2020, section 3.3).

    Attributes:
      model: what runs: by default a copy of the given one with its batch normalisation folded into
        the convolutions, which later changes of the given one's weights do not reach.
      precision: "float32" or "bfloat16", of the network's convolutions. The other attributes are
        BaseExtractor's.
    """

    def __init__(
        self,
        model: tf.keras.Model,
        *,
        precision: str = FLOAT32,
        fold_normalization: bool = True,
        **settings: Any,
    ):
        """Checks the arguments against the model.

        Args:
          model: of delf_tf.create_model, or its folding.inference_copy, which runs as it is.
          precision: "float32" or "bfloat16": weights and activations of the network's convolutions;
            the rest is float32 always.
          fold_normalization: whether `model` is copied with its batch normalisation folded in,
            which changes float32 descriptors by rounding alone; without it, only float32.
          **settings: see ExtractionSettings.

        Raises:
          InputError: an argument out of range, or features that the model does not give.
        """
        tf.Module.__init__(self, name="extractor")
        self.model, self.precision = _inference_model(model, precision, fold_normalization)
        chosen = ExtractionSettings(**settings)
        chosen.require_outputs(model)
        self.apply_settings(chosen, model.global_dim, model.local_dim)
        self._global, self._local = map(
            as_constants, (self.global_projection, self.local_projection)
        )
        if self.use_local_features:
            self._offsets = tf.constant(offset_table(model), tf.float32)

    # Networks branch by tf.cond: AutoGraph would find nothing to convert, in three times the time
    # that the rest of tracing takes.
    @tf.function(
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8, name="image")], autograph=False
    )
    def __call__(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        """Extracts features.

        Args:
          image: uint8 [H, W, 3], RGB, both sides at least MIN_SIDE_PX.

        Returns:
          "global_descriptor" float32 [D], L2-normalised, if asked for; "locations" float32 [N, 2],
          (y, x) pixels of `image`, "descriptors" float32 [N, D], L2-normalised, "scores" float32
          [N], falling, and "scales" float32 [N], if asked for.
        """
        return self.finish(self.levels(image))

    def finish(self, levels: Sequence[dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        """Returns an image's features, as a call does, from the `level`s of its scales."""
        result = {}
        if self.use_global_features:
            result["global_descriptor"] = pool(
                tf.concat([level["global"] for level in levels if "global" in level], axis=0)
            )
        if self.use_local_features:
            cells = {
                name: tf.concat([level[name] for level in levels], axis=0) for name in LOCAL_NAMES
            }
            result.update(
                self.select(cells, self.settings.max_num_features, self.settings.score_threshold)
            )
        return result

    def levels(self, image: tf.Tensor) -> list[dict[str, tf.Tensor]]:
        """Returns `level` of every scale that is of use, in order."""
        return [self.level(image, *one) for one in self.settings.passes()]

    def level(
        self, image: tf.Tensor, scale: float | tf.Tensor, use_global: bool, use_local: bool
    ) -> dict[str, tf.Tensor]:
        """Runs the model on one scale; the part of the graph that export shares.

        Args:
          image: [H, W, 3], RGB, 0..255.
          scale: a number, or a float32 scalar of the graph.
          use_global: give "global" [1, D], normalised and projected.
          use_local: give every cell of the map as a row of "locations" [N, 2], (y, x) pixels of
            `image`, "descriptors" [N, D], as the model gives them, "scores" and "scales" [N].

        Returns:
          float32 tensors by name.
        """
        images = tf.cast(image[tf.newaxis], tf.float32)
        level = pyramid_level(images, scale)
        needed = ("global",) * use_global + (self.model.local_output,) * use_local
        outputs = self.model(level, training=False, outputs=needed)
        result = {}
        if use_global:
            result["global"] = self.project_global(outputs["global"])
        if use_local:
            sizes = tf.shape(images)[1:3], tf.shape(level)[1:3]
            found = self.cells(outputs, *sizes, scale)
            result.update({name: values[0] for name, values in found.items()})
        return result

    def project_global(self, vectors: tf.Tensor) -> tf.Tensor:
        """Returns global descriptors [S, D] of single scales, normalised and projected."""
        return project(tf.cast(vectors, tf.float32), self._global)

    def select(
        self,
        cells: dict[str, tf.Tensor],
        max_num_features: int | tf.Tensor,
        score_threshold: float | tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Keeps the best cells of all scales and finishes their descriptors.

        Args:
          cells: local features of `level`, those of all scales concatenated.
          max_num_features: most rows that are kept; a number or an int32 scalar of the graph.
          score_threshold: likewise, float32.

        Returns:
          The same names; rows by falling score, descriptors projected and L2-normalised.
        """
        chosen = selection.select(
            cells["scores"],
            selection.receptive_boxes(
                cells["locations"], cells["scales"], self.settings.nms_box_px
            ),
            max_num_features=max_num_features,
            score_threshold=score_threshold,
            nms_iou=self.settings.nms_iou,
        )
        kept = {name: tf.gather(values, chosen) for name, values in cells.items()}
        kept["descriptors"] = project(kept["descriptors"], self._local)
        return kept

    def cells(
        self,
        outputs: dict[str, tf.Tensor],
        size: tf.Tensor,
        level_size: tf.Tensor,
        scale: float | tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """Returns one scale's local features as `level` does, with a first axis of images.

        Args:
          outputs: of the model, for images of one size.
          size: int32 [2], (height, width) of the images.
          level_size: of the scaled images.
          scale: its factor.
        """
        factor = tf.cast(size, tf.float32) / tf.cast(level_size, tf.float32)
        templates = "superfeatures" in outputs
        rows = self._template_rows if templates else self._map_rows
        locations, descriptors, scores = rows(outputs, level_size)
        return {
            "locations": (locations + 0.5) * factor - 0.5,
            "descriptors": descriptors,
            "scores": scores,
            "scales": tf.fill(tf.shape(scores), tf.cast(1.0 / scale, tf.float32)),
        }

    def _map_rows(self, outputs: dict[str, tf.Tensor], level_size: tf.Tensor) -> Rows:
        """Returns (y, x) pixels of the scaled image, descriptors and scores of the inner cells."""
        features = tf.cast(outputs["features"], tf.float32)
        scores = tf.cast(outputs["scores"], tf.float32)
        locations = outputs.get("locations")
        if locations is None:
            locations = self._centres(tf.shape(scores)[1:], level_size)[tf.newaxis]
            locations = tf.tile(locations, [tf.shape(scores)[0], 1, 1, 1])
        # An empty slice where the map is all border.
        inner = slice(self.settings.border_cells, -self.settings.border_cells or None)
        rows = [one[:, inner, inner] for one in (locations, features)]
        scores = scores[:, inner, inner]
        num_images = tf.shape(scores)[0]
        return (
            *(tf.reshape(one, [num_images, -1, one.shape[-1]]) for one in rows),
            tf.reshape(scores, [num_images, -1]),
        )

    def _template_rows(self, outputs: dict[str, tf.Tensor], level_size: tf.Tensor) -> Rows:
        """Returns the same of super-features: where a template looked, on average."""
        attention = tf.cast(outputs["attention"], tf.float32)
        grid = self._centres(tf.shape(attention)[2:], level_size)
        locations = tf.einsum("bnhw,hwc->bnc", attention, grid)
        descriptors = tf.cast(outputs["superfeatures"], tf.float32)
        return locations, descriptors, tf.cast(outputs["strengths"], tf.float32)

    def _centres(self, cells: tf.Tensor, level_size: tf.Tensor) -> tf.Tensor:
        """Returns the centres [h, w, 2], (y, x), of a map of `cells` = (h, w)."""
        axes = [
            self.model.local_stride * tf.cast(tf.range(cells[axis]), tf.float32)
            + tf.gather(self._offsets, level_size[axis] % OFFSET_PERIOD)
            for axis in (0, 1)
        ]
        return tf.stack(tf.meshgrid(*axes, indexing="ij"), axis=-1)


def pool(vectors: tf.Tensor) -> tf.Tensor:
    """Returns a global descriptor [..., D] of those of all scales [S, ..., D]: their direction."""
    return tf.math.l2_normalize(tf.reduce_sum(vectors, axis=0), axis=-1)


def _inference_model(
    model: tf.keras.Model, precision: str, fold_normalization: bool
) -> tuple[tf.keras.Model, str]:
    """Returns the network that runs and its precision; networks not of ours run as they are."""
    if isinstance(model, RetrievalModel) and model.inference_precision is not None:
        return model, model.inference_precision
    if fold_normalization and isinstance(model, RetrievalModel):
        return folding.inference_copy(model, precision), precision
    require(
        precision == FLOAT32,
        "bfloat16 needs fold_normalization and a model of create_model.",
        precision=precision,
    )
    return model, FLOAT32


def as_constants(projection: Projection | None) -> Projection | None:
    """Returns a projection as constants of a graph."""
    return None if projection is None else Projection(*map(tf.constant, projection))


def project(vectors: tf.Tensor, projection: Projection | None) -> tf.Tensor:
    """Returns vectors [..., D] L2-normalised, and if there is a projection, projected, too."""
    vectors = tf.math.l2_normalize(vectors, axis=-1)
    if projection is None:
        return vectors
    mean, matrix = projection
    return tf.math.l2_normalize(tf.matmul(vectors - mean, matrix, transpose_b=True), axis=-1)
