"""An EfficientNet-Lite's maps, pooled and whitened, and XFeat's local features in one network."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from delf_tf.checks import require, require_choice
from delf_tf.models.backbones.xfeat import STRIDE_PX, XFeat
from delf_tf.models.delf import Attention, attention_pool
from delf_tf.models.geometry import CellGrid
from delf_tf.models.layers import GeneralizedMean, dense, l2_normalize, register
from delf_tf.models.masking import masked, spatial_mean
from delf_tf.models.retrieval_model import RetrievalModel

DESCRIPTORS = ("pooled", "deepest")
# Weights of a cell without attention, at stride 32 and 16; the mean attention adds 1.
_COARSE_FLOOR, _FINE_FLOOR = 1.0, 0.3


@register
class CompactLite(RetrievalModel):
    """A classification backbone for the global descriptor, XFeat for the local features.

    The deepest map separates classes of things, the stride-16 map their appearance: each
    is pooled by its own generalised mean, whitened on its own, and the unit vectors are joined.
    (Whitened together, the map with the larger variance takes the components.) The local features
    are computed from the same pixels by their own branch. DELF's attention on the stride-16 map
    weighs the cells that are pooled; it learns from classes which parts of a picture tell a place.

    Args:
      backbone: a name of backbones.create.BACKBONES whose levels are stride 16 and 32.
      descriptor: what "global" is: "pooled", of both maps; "deepest", of the stride-32 map alone.
      embedding_dim: width that the pooled vector of each map is whitened to; 0 leaves both as wide
        as their maps.
      gem_power: exponent p of the stride-32 map's pooling, a constant.
      fine_gem_power: that of the stride-16 map.
      attention_dim: hidden channels of the attention; 0 leaves it out, and all cells count alike.
      backbone_scale: factor of the images that the backbone sees, whose sides are then multiples
        of 32: classification needs fewer pixels than keypoints do. At least 0.5.
      **options: of the backbone and the preprocessing, see RetrievalModel.
    """

    output_names_available = ("global", "local")
    local_dim = XFeat.local_dim

    def __init__(
        self,
        backbone: str,
        *,
        descriptor: str = "pooled",
        embedding_dim: int = 0,
        gem_power: float = 2.0,
        fine_gem_power: float = 2.5,
        attention_dim: int = 0,
        backbone_scale: float = 1.0,
        **options: Any,
    ):
        require_choice("descriptor", descriptor, DESCRIPTORS)
        super().__init__(backbone, **options)
        require(
            {"stride16", "stride32"} <= set(self.backbone.levels),
            "The backbone must have maps of stride 16 and 32.",
            backbone=backbone,
        )
        require(
            0.5 <= backbone_scale <= 1,
            "backbone_scale must be from 0.5 to 1.",
            backbone_scale=backbone_scale,
        )
        self.descriptor, self.backbone_scale = descriptor, backbone_scale
        self.pooling, self.fine_pooling = (
            GeneralizedMean(gem_power),
            GeneralizedMean(fine_gem_power),
        )
        self.whitening = dense(embedding_dim) if embedding_dim else None
        self.fine_whitening = dense(embedding_dim) if embedding_dim else None
        self.attention = Attention(attention_dim) if attention_dim else None
        self.local_network = XFeat()

    @property
    def pooled_widths(self) -> tuple[int, ...]:
        """Widths of the parts that a whitening is fitted to: stride 32, then stride 16."""
        return self.backbone.channels("stride32"), self.backbone.channels("stride16")

    @property
    def whitenings(self) -> tuple[tf.keras.layers.Layer | None, ...]:
        """The layer that whitens each part; None: not whitened."""
        return self.whitening, self.fine_whitening

    @property
    def global_dim(self) -> int:
        """Width of the global descriptor."""
        widths = [self.whitening.units] * 2 if self.whitening else self.pooled_widths
        return widths[0] if self.descriptor == "deepest" else sum(widths)

    @property
    def local_stride(self) -> int:
        """See RetrievalModel.local_stride."""
        return self.local_network.local_stride

    def local_grid(self, size: int) -> CellGrid:
        """See RetrievalModel.local_grid."""
        return self.local_network.local_grid(size)

    def maps(self, images: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        """Returns the backbone's maps, "stride16" and "stride32"."""
        images = _shrunk(tf.cast(images, tf.float32), self.backbone_scale)
        return self.backbone(self.preprocess(images), training=training, last="stride32")

    def parts(self, maps: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        """Returns the unit vector [B, D] float32 of each map, stride 32 first."""
        weights, fine_weights = self._cell_weights(maps["stride16"])
        pooled = [self.pooling(maps["stride32"], weights)]
        if self.descriptor == "pooled":
            pooled.append(self.fine_pooling(maps["stride16"], fine_weights))
        vectors = [l2_normalize(one) for one in pooled]
        if self.whitening is None:
            return vectors
        return [l2_normalize(layer(one)) for layer, one in zip(self.whitenings, vectors)]

    def _cell_weights(self, fine: tf.Tensor) -> tuple[tf.Tensor | None, tf.Tensor | None]:
        """Returns the weights [B, h, w] of the stride-32 and of the stride-16 cells, or None twice.

        They follow the attention over its mean in the image: at stride 32 its square; at stride 16,
        where details of the surroundings help, all cells of the mean attention and more weigh
        alike. No weight is 0, as in a landscape no cell stands out.
        """
        if self.attention is None:
            return None, None
        attention = tf.stop_gradient(self.attention(fine))[..., tf.newaxis]
        relative = attention / tf.maximum(spatial_mean(attention, keepdims=True), 1e-12)
        coarse = _quartered(_COARSE_FLOOR + tf.square(relative))
        return coarse[..., 0], (_FINE_FLOOR + tf.minimum(relative, 1.0))[..., 0]

    def infer(
        self, images: tf.Tensor, training: bool, outputs: tuple[str, ...]
    ) -> dict[str, tf.Tensor]:
        """See RetrievalModel.call."""
        result = {}
        if "global" in outputs:
            maps = self.maps(images, training)
            result["global"] = l2_normalize(tf.concat(self.parts(maps), axis=-1))
        if "local" in outputs:
            result.update(self.local_network.infer(images, training, ("local",)))
        return result

    def make_variables(self) -> None:
        """See RetrievalModel.make_variables; makes what "deepest" does not use, too."""
        chosen, self.descriptor = self.descriptor, "pooled"
        super().make_variables()
        self.descriptor = chosen

    def training_outputs(self, images: tf.Tensor, training: bool = True) -> dict[str, tf.Tensor]:
        """Computes what the losses need.

        Batch normalisation of the backbone keeps its statistics: fine-tuning has few images, and
        the whitenings were fitted to what the network gives by them.

        Returns:
          "embedding" [B, D]: the joined descriptor before it is normalised; "attention_pooled"
          [B, C], whose gradient reaches the attention alone, if there is one. All float32.
        """
        maps = self.maps(images, False)
        result = {"embedding": tf.concat(self.parts(maps), axis=-1)}
        if self.attention is not None:
            fine = tf.stop_gradient(maps["stride16"])
            scores = self.attention(fine, training=training)
            result["attention_pooled"] = attention_pool(fine, scores)
        return result


def _quartered(x: tf.Tensor) -> tf.Tensor:
    """Returns the means of 2x2 cells of a map [B, h, w, 1]; of those inside, at its edges."""
    size = {"ksize": 2, "strides": 2, "padding": "SAME"}
    inside = tf.nn.avg_pool2d(masked(tf.ones_like(x)), **size)
    return tf.nn.avg_pool2d(masked(x), **size) / tf.maximum(inside, 1e-6)


def _shrunk(images: tf.Tensor, scale: float) -> tf.Tensor:
    """Returns images [B, H, W, 3] at `scale`, bilinear, or as they are at 1.

    Sides become the nearest multiples of 32. Those that are known while a graph is made stay so.
    Without antialiasing, which other engines cannot convert: above 0.5 there is little to lose.
    """
    if scale == 1.0:
        return images
    size = images.shape[1:3]
    if size.is_fully_defined():
        wanted = [STRIDE_PX * max(1, round(side * scale / STRIDE_PX)) for side in size]
    else:
        cells = tf.cast(tf.shape(images)[1:3], tf.float32) * (scale / STRIDE_PX)
        wanted = STRIDE_PX * tf.maximum(1, tf.cast(tf.round(cells), tf.int32))
    return tf.image.resize(images, wanted, method="bilinear")
