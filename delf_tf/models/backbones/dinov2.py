"""DINOv2: Oquab et al.: Learning Robust Visual Features without Supervision, TMLR 2024.

With registers: Darcet, Oquab, Mairal, Bojanowski: Vision Transformers Need Registers, ICLR 2024.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from delf_tf.checks import require
from delf_tf.models.geometry import CellGrid, cell_locations, resize_to_multiple
from delf_tf.models.layers import (
    IMAGENET_RGB,
    build_maps,
    dense,
    l2_normalize,
    layer_norm,
    multi_head_attention,
    register,
)
from delf_tf.models.retrieval_model import RetrievalModel

# Width of the tokens and number of blocks.
SIZES = {"s": (384, 12), "b": (768, 12), "l": (1024, 24)}
PATCH_PX = 14
_HEAD_DIM = 64
_EPSILON = 1e-6
# What the authors add to the number of patches before they resize the table of positions; models
# with registers were trained without it, and antialiased.
_OFFSET_WITHOUT_REGISTERS = 0.1


@register
class TransformerBlock(tf.keras.layers.Layer):
    """Pre-norm self-attention and a GELU network, each scaled by a learnt vector and added.

    The sums stay in float32 at any policy.

    Args:
      dim: width D of the tokens, a multiple of 64: attention heads are 64 wide.

    Input shape: [B, T, D] float32. Outputs, float32: [B, T, D], and what the first token attends to
    [B, T], the mean over heads.
    """

    def __init__(self, dim: int, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.dim = dim
        self.norm1, self.norm2 = layer_norm(_EPSILON), layer_norm(_EPSILON)
        self.qkv, self.out = dense(3 * dim), dense(dim)
        self.hidden, self.shrink = dense(4 * dim), dense(dim)

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        for layer in (self.norm1, self.norm2, self.qkv, self.out, self.hidden):
            layer.build((None, None, self.dim))
        self.shrink.build((None, None, 4 * self.dim))
        self.scale1 = self._scale("scale1")
        self.scale2 = self._scale("scale2")
        super().build(input_shape)

    def _scale(self, name: str) -> Any:
        return self.add_weight(name=name, shape=(self.dim,), dtype="float32", initializer="ones")

    def call(self, tokens: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See the class."""
        mixed, attention = multi_head_attention(self.qkv(self.norm1(tokens)), self.dim // _HEAD_DIM)
        tokens += self.scale1 * tf.cast(self.out(mixed), tf.float32)
        hidden = tf.nn.gelu(self.hidden(self.norm2(tokens)), approximate=False)
        tokens += self.scale2 * tf.cast(self.shrink(hidden), tf.float32)
        return tokens, tf.reduce_mean(attention[:, :, 0], axis=1)


@register
class VisionTransformer(tf.keras.layers.Layer):
    """Patches of 14x14 pixels, a class token and registers, through transformer blocks.

    Args:
      dim: width D of the tokens, a multiple of 64.
      depth: blocks.
      num_registers: tokens beside the class token that are not given out.
      table_side: patches along a side of the images of training, whose positions are learnt; for
        other numbers they are resized, bicubic, as the authors do.

    Input shape: [B, H, W, 3], preprocessed, H and W multiples of 14. Outputs, float32: "class"
    [B, D]; "stride14" [B, H/14, W/14, D]; "attention" [B, H/14, W/14], what the class token attends
    to in the last block, the mean over heads, 1 where it attends evenly to all tokens.
    """

    levels = ("stride14",)

    def __init__(
        self,
        dim: int,
        depth: int,
        num_registers: int = 0,
        table_side: int = 37,
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **kwargs)
        must = f"dim must be a positive multiple of {_HEAD_DIM}."
        require(dim > 0 and dim % _HEAD_DIM == 0, must, dim=dim)
        require(depth >= 1, "depth must be at least 1.", depth=depth)
        require(table_side >= 1, "table_side must be at least 1.", table_side=table_side)
        self._dim, self._depth = dim, depth
        self._num_registers, self._table_side = num_registers, table_side
        # "stem" stays in float32 where the rest is bfloat16: extraction/folding.py.
        self.stem = tf.keras.layers.Conv2D(
            dim, PATCH_PX, strides=PATCH_PX, kernel_initializer="zeros"
        )
        for index in range(depth):
            setattr(self, f"block{index}", TransformerBlock(dim))
        self.norm = layer_norm(_EPSILON)

    def build(self, input_shape: Any) -> None:
        """Makes the variables."""
        dim = self._dim
        build_maps([(self.stem, 3)])
        for layer in (*self._blocks(), self.norm):
            layer.build((None, None, dim))
        counts = {
            "class_token": 1,
            "registers": self._num_registers,
            "positions": 1 + self._table_side**2,
        }
        for name, count in counts.items():
            if count:
                options = {"shape": (count, dim), "dtype": "float32", "initializer": "zeros"}
                setattr(self, name, self.add_weight(name=name, **options))
        super().build(input_shape)

    def _blocks(self) -> list[TransformerBlock]:
        return [getattr(self, f"block{index}") for index in range(self._depth)]

    def channels(self, level: str) -> int:
        """Returns the width of the tokens."""
        del level
        return self._dim

    def grid(self, level: str, size: int) -> CellGrid:
        """Returns where the patches lie along an axis of `size` pixels, a multiple of 14."""
        del level
        return CellGrid(PATCH_PX, (PATCH_PX - 1) / 2, size // PATCH_PX)

    def call(
        self, x: tf.Tensor, training: bool = False, last: str | None = None
    ) -> dict[str, tf.Tensor]:
        """See the class; there is one level, and training changes nothing."""
        del training, last
        patches = tf.cast(self.stem(x), tf.float32)
        shape = tf.shape(patches)
        batch, dim = shape[0], self._dim
        positions = self._positions(shape[1:3])
        first = tf.convert_to_tensor(self.class_token) + self.positions[:1]
        heads = [tf.tile(first[tf.newaxis], [batch, 1, 1])]
        if self._num_registers:
            heads.append(tf.tile(tf.convert_to_tensor(self.registers)[tf.newaxis], [batch, 1, 1]))
        tokens = tf.concat([*heads, tf.reshape(patches + positions, [batch, -1, dim])], axis=1)
        attention = tf.zeros([])
        for block in self._blocks():
            tokens, attention = block(tokens)
        tokens = self.norm(tokens)
        before = 1 + self._num_registers
        even = tf.cast(tf.shape(tokens)[1], tf.float32)
        return {
            "class": tokens[:, 0],
            "stride14": tf.reshape(tokens[:, before:], tf.shape(patches)),
            "attention": tf.reshape(attention[:, before:] * even, shape[:3]),
        }

    def _positions(self, cells: tf.Tensor) -> tf.Tensor:
        """Returns the positions [h, w, D] of a map of `cells` = (h, w)."""
        side, dim = self._table_side, self._dim
        table = tf.reshape(self.positions[1:], [side, side, dim])
        with_registers = self._num_registers > 0
        rows, columns = (_bicubic(cells[axis], side, with_registers) for axis in (0, 1))
        resized = tf.einsum("hi,ijd,wj->hwd", rows, table, columns)
        is_table = tf.reduce_all(cells == side)
        return tf.cond(is_table, lambda: table, lambda: resized)


@register
class DinoV2(RetrievalModel):
    """DINOv2 as it was trained: the class token as global descriptor, the patches as local ones.

    A patch's score is what the class token attends to it in the last block. Sides that are no
    multiples of 14 are resized to the next smaller one (or to 14); "locations" are pixels of the
    images as they were given.

    Args:
      dim: width of the tokens: 384 (S), 768 (B) or 1024 (L).
      depth: blocks: 12, 12 or 24.
      num_registers: 0, or 4 in the models with registers.
      table_side: see VisionTransformer.
      preprocessing: arguments of layers.Preprocessing; None: ImageNet's mean and deviation.
    """

    output_names_available = ("global", "local")

    def __init__(
        self,
        *,
        dim: int = 384,
        depth: int = 12,
        num_registers: int = 0,
        table_side: int = 37,
        preprocessing: dict[str, Any] | None = None,
    ):
        backbone = VisionTransformer(dim, depth, num_registers, table_side)
        super().__init__(backbone, preprocessing=preprocessing or IMAGENET_RGB)
        self.global_dim = self.local_dim = dim

    def local_grid(self, size: int) -> CellGrid:
        """See RetrievalModel.local_grid: of patches, at a side of the next smaller 14."""
        return self.backbone.grid("stride14", max(PATCH_PX, size // PATCH_PX * PATCH_PX))

    @property
    def local_stride(self) -> int:
        """Side of a patch, pixels of the resized image."""
        return PATCH_PX

    def infer(
        self, images: tf.Tensor, training: bool, outputs: tuple[str, ...]
    ) -> dict[str, tf.Tensor]:
        """Computes descriptors.

        Returns:
          "global" [B, D]; "features" [B, h, w, D], "scores" [B, h, w], and "locations"
          [B, h, w, 2], (y, x) pixels of `images`. All float32.
        """
        maps = self._maps(images, training)
        result = {}
        if "global" in outputs:
            result["global"] = l2_normalize(maps["class"])
        if "local" in outputs:
            shape, size = tf.shape(maps["attention"]), tf.shape(images)[1:3]
            centres = tf.fill([*tf.unstack(shape), 2], (PATCH_PX - 1) / 2)
            result["features"], result["scores"] = maps["stride14"], maps["attention"]
            result["locations"] = cell_locations(centres, PATCH_PX, size)
        return result

    def training_outputs(self, images: tf.Tensor, training: bool = True) -> dict[str, tf.Tensor]:
        """Returns {"embedding": [B, D]}: the class token before it is normalised."""
        return {"embedding": self._maps(images, training)["class"]}

    def _maps(self, images: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        resized = resize_to_multiple(self.preprocess(images), PATCH_PX)
        return self.backbone(resized, training=training)


def _bicubic(num_out: tf.Tensor, num_in: int, with_registers: bool) -> tf.Tensor:
    """Returns the weights [num_out, num_in] of a bicubic resize along one axis, as PyTorch's.

    Without registers: Keys' kernel with a = -0.75, four taps, the border repeated, the step from
    num_out + 0.1. With: a = -0.5, widened where the table shrinks, cut at the border.
    """
    count = tf.cast(num_out, tf.float32)
    centre = tf.range(count) + 0.5
    source = tf.range(num_in)
    if with_registers:
        step = num_in / count
        width = tf.maximum(step, 1.0)
        distance = tf.cast(source, tf.float32) + 0.5 - step * centre[:, tf.newaxis]
        weights = _keys(distance / width, -0.5)
        return weights / tf.reduce_sum(weights, axis=1, keepdims=True)
    place = centre * (num_in / (count + _OFFSET_WITHOUT_REGISTERS)) - 0.5
    taps = tf.floor(place)[:, tf.newaxis] + tf.range(-1.0, 3.0)
    weights = _keys(taps - place[:, tf.newaxis], -0.75)
    inside = tf.clip_by_value(tf.cast(taps, tf.int32), 0, num_in - 1)
    return tf.einsum("ot,oti->oi", weights, tf.one_hot(inside, num_in))


def _keys(distance: tf.Tensor, a: float) -> tf.Tensor:
    """Keys' kernel of cubic convolution (IEEE TASSP 1981)."""
    x = tf.abs(distance)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    return tf.where(x <= 1.0, near, tf.where(x < 2.0, far, 0.0))
