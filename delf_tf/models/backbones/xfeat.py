"""XFeat: Potje et al.: XFeat: Accelerated Features for Lightweight Image Matching, CVPR 2024."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from delf_tf.models.geometry import CellGrid, cell_locations, resize_to_multiple
from delf_tf.models.layers import (
    ConvNorm,
    build_maps,
    conv1x1,
    register,
)
from delf_tf.models.retrieval_model import RetrievalModel

# Channels, kernel and stride of each block's convolutions (section 3.1 of the paper).
BLOCKS = {
    "block1": ((4, 3, 1), (8, 3, 2), (8, 3, 1), (24, 3, 2)),
    "block2": ((24, 3, 1), (24, 3, 1)),
    "block3": ((64, 3, 2), (64, 3, 1), (64, 1, 1)),
    "block4": ((64, 3, 2), (64, 3, 1), (64, 3, 1)),
    "block5": ((128, 3, 2), (128, 3, 1), (128, 3, 1), (64, 1, 1)),
    "fusion": ((64, 3, 1), (64, 3, 1)),
}
DIM = 64
CELL_PX = 8
# The coarsest map's stride: sides are multiples of it, so that all maps cover the same pixels.
STRIDE_PX = 32
# Pixels in 0..1, as the published weights were trained; the network takes the mean of the colours.
UNIT_RGB = {"channel_order": "RGB", "mean": [0.0] * 3, "std": [255.0] * 3}
_EPSILON = 1e-5


class _Layers(tf.keras.layers.Layer):
    """A layer with a chain of convolutions, normalisations and ReLUs called `{name}_{index}`."""

    def _add(self, name: str, settings: tuple[tuple[int, int, int], ...], **options: Any) -> None:
        for index, (channels, kernel, stride) in enumerate(settings):
            layer = ConvNorm(channels, kernel, stride, activation="relu", **options)
            setattr(self, f"{name}_{index}", layer)

    def _build(self, name: str, settings: tuple[tuple[int, int, int], ...], channels: int) -> None:
        for index, (filters, _, _) in enumerate(settings):
            build_maps([(getattr(self, f"{name}_{index}"), channels)])
            channels = filters

    def _run(self, name: str, x: tf.Tensor, training: bool) -> tf.Tensor:
        index = 0
        while hasattr(self, f"{name}_{index}"):
            x = getattr(self, f"{name}_{index}")(x, training=training)
            index += 1
        return x


@register
class XFeatBackbone(_Layers):
    """The featherweight backbone: a few channels at the finest strides, three strides fused.

    Input shape: [B, H, W, 1], H and W multiples of 32. Output: {"stride8": [B, H/8, W/8, 64]}.
    """

    levels = ("stride8",)

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        for name, settings in BLOCKS.items():
            self._add(name, settings)
        self.skip = conv1x1(BLOCKS["block1"][-1][0])
        self.merge = conv1x1(DIM)

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        inputs = {"block1": 1, "block2": 24, "block3": 24, "block4": 64, "block5": 64, "fusion": 64}
        for name, settings in BLOCKS.items():
            self._build(name, settings, inputs[name])
        build_maps([(self.skip, 1), (self.merge, DIM)])
        super().build(input_shape)

    def channels(self, level: str) -> int:
        """Returns the channels of the one map."""
        del level
        return DIM

    def grid(self, level: str, size: int) -> CellGrid:
        """Returns where the 8x8 cells lie along an axis of `size` pixels, a multiple of 32."""
        del level
        return CellGrid(CELL_PX, (CELL_PX - 1) / 2, size // CELL_PX)

    def call(
        self, x: tf.Tensor, training: bool = False, last: str | None = None
    ) -> dict[str, tf.Tensor]:
        """See the class; there is one level."""
        del last
        skipped = self.skip(tf.nn.avg_pool2d(x, 4, 4, "VALID"))
        x = self._run("block1", x, training)
        fine = self._run("block3", self._run("block2", x + skipped, training), training)
        middle = self._run("block4", fine, training)
        coarse = self._run("block5", middle, training)
        fused = fine + _resized(middle, fine) + _resized(coarse, fine)
        return {"stride8": self.merge(self._run("fusion", fused, training))}


@register
class ReliabilityHead(_Layers):
    """How likely a cell's descriptor is to be matched: two 1x1 convolutions and a sigmoid.

    Input shape: [B, h, w, 64]. Output shape: [B, h, w] float32, 0..1.
    """

    _SETTINGS = ((64, 1, 1), (64, 1, 1))

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._add("hidden", self._SETTINGS)
        self.score = conv1x1(1)

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        self._build("hidden", self._SETTINGS, int(input_shape[-1]))
        build_maps([(self.score, 64)])
        super().build(input_shape)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See the class."""
        logits = self.score(self._run("hidden", x, training))
        return tf.nn.sigmoid(tf.cast(logits[..., 0], tf.float32))


@register
class KeypointHead(_Layers):
    """Where in a cell the keypoint is, or that there is none: 1x1 convolutions on raw pixels.

    It stays in float32 at any policy: its logits choose between near-equal pixels of a cell.

    Input shape: [B, H, W, 1], multiples of 8. Output shape: [B, H/8, W/8, 65] float32 logits: the
    cell's pixels by rows, then "none".
    """

    _SETTINGS = ((64, 1, 1), (64, 1, 1), (64, 1, 1))

    def __init__(self, **kwargs: Any):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self._add("hidden", self._SETTINGS, dtype="float32")
        self.logits = tf.keras.layers.Conv2D(
            CELL_PX**2 + 1, 1, kernel_initializer="zeros", dtype="float32"
        )

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        self._build("hidden", self._SETTINGS, CELL_PX**2)
        build_maps([(self.logits, 64)])
        super().build(input_shape)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See the class."""
        return self.logits(self._run("hidden", tf.nn.space_to_depth(x, CELL_PX), training))


@register
class XFeat(RetrievalModel):
    """Local features of 8x8 cells, each at the pixel of its cell that is most a keypoint.

    A feature's score is the probability of that pixel times the reliability of its cell. There is
    no global descriptor. Sides that are no multiples of 32 are resized to the next smaller one (or
    to 32), as the authors do; "locations" are pixels of the images as they were given.

    Args:
      preprocessing: arguments of layers.Preprocessing; None: pixels in 0..1, as the published
        weights expect.
    """

    output_names_available = ("local",)
    global_dim = None
    local_dim = DIM

    def __init__(self, *, preprocessing: dict[str, Any] | None = None):
        super().__init__(XFeatBackbone(), preprocessing=preprocessing or UNIT_RGB)
        self.reliability = ReliabilityHead()
        self.keypoints = KeypointHead()

    def local_grid(self, size: int) -> CellGrid:
        """See RetrievalModel.local_grid: centres of cells, at a side of the next smaller 32."""
        return self.backbone.grid("stride8", max(STRIDE_PX, size // STRIDE_PX * STRIDE_PX))

    @property
    def local_stride(self) -> int:
        """Side of a cell, pixels of the resized image."""
        return CELL_PX

    def infer(
        self, images: tf.Tensor, training: bool, outputs: tuple[str, ...]
    ) -> dict[str, tf.Tensor]:
        """Computes local features.

        Returns:
          "features" [B, h, w, 64], not normalised; "scores" [B, h, w], 0..1; "locations"
          [B, h, w, 2], (y, x) pixels of `images`. All float32.
        """
        if not outputs:
            return {}
        result = self.training_outputs(images, training)
        places = tf.nn.softmax(result["keypoint_logits"])[..., :-1]
        inner = tf.argmax(places, axis=-1, output_type=tf.int32)
        inner = tf.stack([inner // CELL_PX, inner % CELL_PX], axis=-1)
        return {
            "features": result["features"],
            "scores": tf.reduce_max(places, axis=-1) * result["reliability"],
            "locations": cell_locations(inner, CELL_PX, tf.shape(images)[1:3]),
        }

    def training_outputs(self, images: tf.Tensor, training: bool = True) -> dict[str, tf.Tensor]:
        """Computes what losses need.

        Returns:
          "features" [B, h, w, 64], "keypoint_logits" [B, h, w, 65], "reliability" [B, h, w]; all
          float32.
        """
        grey = _grey(resize_to_multiple(self.preprocess(images), STRIDE_PX))
        features = self.backbone(grey, training=training)["stride8"]
        return {
            "features": tf.cast(features, tf.float32),
            "keypoint_logits": self.keypoints(grey, training=training),
            "reliability": self.reliability(features, training=training),
        }


def _grey(images: tf.Tensor) -> tf.Tensor:
    """Returns the mean of the colours [B, H, W, 1], its mean 0 and its variance 1 in each image."""
    grey = tf.reduce_mean(images, axis=-1, keepdims=True)
    mean, variance = tf.nn.moments(grey, axes=[1, 2], keepdims=True)
    return tf.stop_gradient((grey - mean) * tf.math.rsqrt(variance + _EPSILON))


def _resized(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.image.resize(x, tf.shape(like)[1:3], method="bilinear"), like.dtype)
