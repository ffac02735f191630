"""A classification backbone used as it is: its last map pooled, by any of the field's poolings."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from delf_tf.checks import require_choice
from delf_tf.models.layers import POOLINGS, create_pooling, dense, l2_normalize, register
from delf_tf.models.retrieval_model import RetrievalModel

RMAC = "rmac"
# L of the paper.
NUM_SCALES = 3
# Neighbouring regions of the largest scale should share this much of their area.
_OVERLAP = 0.4
_MOST_REGIONS = 7


@register
class Gem(RetrievalModel):
    """A pooled descriptor of the deepest map, whitened if `embedding_dim` is set.

    "gem": Radenović, Tolias, Chum, "Fine-tuning CNN Image Retrieval", TPAMI 2019. "average": SPoC
    of Babenko and Lempitsky, ICCV 2015, without its centre prior. "max": MAC, and "rmac": R-MAC of
    Tolias et al., ICLR 2016: each region's maxima are L2-normalised, whitened, L2-normalised again
    and summed.

    Local features are the cells of the stride-16 map, scored by their norm: what a network has
    before an attention is trained. Those of R-MAC are its regions before the whitening, which is
    fitted to them.

    Args:
      backbone: a name of backbones.create.BACKBONES.
      global_pooling: "gem", "average", "max" or "rmac".
      gem_power: exponent p of "gem", positive.
      embedding_dim: width of the whitened descriptor; 0 leaves it as wide as the map.
      **options: of the backbone and the preprocessing, see RetrievalModel.
    """

    output_names_available = ("global", "local")

    def __init__(
        self,
        backbone: str,
        *,
        global_pooling: str = "gem",
        gem_power: float = 3.0,
        embedding_dim: int = 0,
        **options: Any,
    ):
        require_choice("global_pooling", global_pooling, (*POOLINGS, RMAC))
        super().__init__(backbone, **options)
        self.by_regions = global_pooling == RMAC
        # Regions of unlike images of one batch have no common shape.
        self.maskable = not self.by_regions
        self.pooling = (
            RegionalMaxima() if self.by_regions else create_pooling(global_pooling, gem_power)
        )
        self.whitening = dense(embedding_dim) if embedding_dim else None

    @property
    def pooled_widths(self) -> tuple[int, ...]:
        """Width of what a whitening is fitted to."""
        return (self.backbone.channels(self.backbone.levels[-1]),)

    @property
    def whitenings(self) -> tuple[tf.keras.layers.Layer | None, ...]:
        """The layer that whitens it; None: not whitened."""
        return (self.whitening,)

    @property
    def global_dim(self) -> int:
        """Width of the global descriptor."""
        return self.whitening.units if self.whitening else self.pooled_widths[0]

    @property
    def local_dim(self) -> int:
        """Channels of the stride-16 map, or of what R-MAC pools."""
        return self.pooled_widths[0] if self.by_regions else self.backbone.channels("stride16")

    def infer(
        self, images: tf.Tensor, training: bool, outputs: tuple[str, ...]
    ) -> dict[str, tf.Tensor]:
        """See RetrievalModel.call."""
        deepest = self.backbone.levels[-1]
        last = deepest if self.by_regions or "global" in outputs else "stride16"
        maps = self.backbone(self.preprocess(images), training=training, last=last)
        result = {}
        if "global" in outputs:
            result["global"] = l2_normalize(self._pooled(maps[deepest]))
        if "local" in outputs and self.by_regions:
            result.update(self._regions(maps[deepest], tf.shape(images)))
        elif "local" in outputs:
            features = tf.cast(maps["stride16"], tf.float32)
            result["features"] = features
            result["scores"] = tf.norm(features, axis=-1)
        return result

    def training_outputs(self, images: tf.Tensor, training: bool = True) -> dict[str, tf.Tensor]:
        """Returns {"embedding": [B, D]}: the pooled map before it is normalised."""
        deepest = self.backbone.levels[-1]
        maps = self.backbone(self.preprocess(images), training=training, last=deepest)
        return {"embedding": self._pooled(maps[deepest])}

    def _pooled(self, deepest: tf.Tensor) -> tf.Tensor:
        """Returns the descriptor before it is normalised, [B, D] float32."""
        if not self.by_regions:
            return self._whitened(self.pooling(deepest))
        maxima, _ = self.pooling(deepest)
        return tf.reduce_sum(l2_normalize(self._whitened(l2_normalize(maxima))), axis=1)

    def _whitened(self, vectors: tf.Tensor) -> tf.Tensor:
        """Returns vectors [..., D], normalised and whitened if there is a whitening."""
        if self.whitening is None:
            return vectors
        return tf.cast(self.whitening(l2_normalize(vectors)), tf.float32)

    def _regions(self, deepest: tf.Tensor, shape: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the regions of images of a shape as local features, a single row of them."""
        maxima, centres = self.pooling(deepest)
        features = tf.cast(maxima, tf.float32)[:, tf.newaxis]
        places = centres * tf.cast(shape[1:3], tf.float32) - 0.5
        locations = tf.tile(places[tf.newaxis, tf.newaxis], [shape[0], 1, 1, 1])
        return {
            "features": features,
            "scores": tf.norm(features, axis=-1),
            "locations": locations,
        }


@register
class RegionalMaxima(tf.keras.layers.Layer):
    """R-MAC's maximum of each channel within each region of a grid (Tolias et al., section 4).

    The regions of scale l are squares of side floor(2 min(H, W) / (l + 1)), l along the shorter
    axis and l + m - 1 along the longer one, evenly spread; m of 2 to 7 is what brings the overlap
    of the largest nearest to 40 %, and 1 in a square map. Regions of less than a cell are a cell.

    Args:
      num_scales: L of the paper.

    Input shape: [B, H, W, C], of one size and without masks. Output: maxima [B, R, C], in the
    input's dtype, and the regions' centres float32 [R, 2], (y, x) as shares of the map, in 0..1.
    """

    def __init__(self, num_scales: int = NUM_SCALES, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_scales = num_scales

    def call(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See the class."""
        size = tf.shape(x)[1:3]
        channels = x.shape[-1]
        maxima, centres = [], []
        for rows, columns, side in regions(size, self.num_scales):
            bands = _window_maxima(x[:, tf.newaxis], rows, side, axis=2)
            found = _window_maxima(bands[:, :, tf.newaxis], columns, side, axis=3)
            maxima.append(tf.reshape(found, [-1, tf.size(rows) * tf.size(columns), channels]))
            corners = tf.stack(tf.meshgrid(rows, columns, indexing="ij"), axis=-1)
            middles = 2 * tf.reshape(corners, [-1, 2]) + side
            centres.append(tf.cast(middles, tf.float32) / tf.cast(2 * size, tf.float32))
        return tf.concat(maxima, axis=1), tf.concat(centres, axis=0)


def regions(size: tf.Tensor, num_scales: int) -> list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Returns for each scale the first rows, the first columns and the side of its regions.

    Args:
      size: int32 [2], height and width of a map, cells.
      num_scales: L.

    Returns:
      L of (int32 [n], int32 [k], int32 scalar): a region starts at every row in every column.
    """
    short, long = tf.reduce_min(size), tf.reduce_max(size)
    steps = tf.range(1, _MOST_REGIONS)
    moved = tf.cast(long - short, tf.float64) / tf.cast(short * steps, tf.float64)
    more = 1 + tf.argmin(tf.abs(1 - moved - _OVERLAP), output_type=tf.int32)
    # Regions along each axis beyond those of a square map.
    extra = tf.where(size > short, more, 0)
    found = []
    for scale in range(1, num_scales + 1):
        side = tf.maximum(2 * short // (scale + 1), 1)
        starts = []
        for axis in (0, 1):
            count = scale + extra[axis]
            numbers = tf.range(count)
            starts.append(numbers * (size[axis] - side) // tf.maximum(count - 1, 1))
        found.append((*starts, side))
    return found


def _window_maxima(x: tf.Tensor, starts: tf.Tensor, side: tf.Tensor, axis: int) -> tf.Tensor:
    """Returns the maxima over `side` cells of an axis from each start on.

    Args:
      x: with an axis of length 1 before `axis`, which becomes one of `starts`.
      starts: int32 [n].
      side: int32 scalar.
      axis: of the cells, which is reduced.
    """
    cells = tf.range(tf.shape(x)[axis])
    inside = (cells >= starts[:, tf.newaxis]) & (cells < starts[:, tf.newaxis] + side)
    shape = [tf.size(starts), tf.size(cells)] + [1] * (x.shape.rank - axis - 1)
    return tf.reduce_max(tf.where(tf.reshape(inside, shape), x, x.dtype.min), axis=axis)
