"""Batches of images padded to a few static shapes; results equal those of single images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from delf_tf.checks import require
from delf_tf.extraction.array_extractor import equal_rows
from delf_tf.extraction.extractor import Extractor
from delf_tf.extraction.levels import pyramid_level
from delf_tf.models.backbones.backbone import Backbone
from delf_tf.models.masking import cells, valid_area
from delf_tf.models.retrieval_model import RetrievalModel

# Every stride of the networks divides it, so that a padded map has whole cells at every level.
_STRIDE = 64


class BatchExtractor(tf.Module):
    """Runs an Extractor's network on batches of images of like size.

    Each scale of the images is padded to a multiple of `bucket_px` and the batch to `batch_size`,
    so that accelerators compile few shapes; masks keep the padding out of the result. The selection
    of local features is each image's own.
    """

    def __init__(
        self,
        extractor: Extractor,
        *,
        batch_size: int = 8,
        bucket_px: int = 128,
    ):
        """Checks that the network can be masked.

        Args:
          extractor: of a model of create_model, folded.
          batch_size: images that the network sees at once.
          bucket_px: padded sides are multiples of this; a multiple of 64.

        Raises:
          InputError: a number out of range, a network whose padding depends on the size, or
            super-features, which attend to all cells, or R-MAC.
        """
        super().__init__(name="batch_extractor")
        require(batch_size >= 1, "batch_size must be 1 or more.", batch_size=batch_size)
        require(
            bucket_px >= _STRIDE and bucket_px % _STRIDE == 0,
            f"bucket_px must be a multiple of {_STRIDE}.",
            bucket_px=bucket_px,
        )
        model = extractor.model
        maskable = isinstance(model, RetrievalModel) and model.maskable
        require(
            maskable
            and isinstance(model.backbone, Backbone)
            and model.backbone.pads_with_zeros
            and model.local_output == "local"
            and model.local_stride == 16,
            "Batches must be of a network that pads symmetrically with zeros: a torchvision-form "
            "ResNet or MobileNetV2, with global (but R-MAC) or attentive local features.",
            hint="Extract one image at a time: batch_size 1.",
            model=type(model).__name__,
        )
        self.extractor, self.batch_size, self.bucket_px = extractor, batch_size, bucket_px
        self._network = tf.function(self._run, autograph=False)
        self._finish = tf.function(self._select, reduce_retracing=True, autograph=False)

    def __call__(self, images: Sequence[np.ndarray]) -> list[dict[str, tf.Tensor]]:
        """Extracts images; the result's order is theirs.

        Args:
          images: uint8 [H, W, 3] each, RGB, both sides at least MIN_SIDE_PX.

        Returns:
          What the Extractor returns, for each.
        """
        found: dict[int, dict[str, tf.Tensor]] = {}
        sizes = [self.padded_size(*image.shape[:2]) for image in images]
        for rows in equal_rows(sizes, self.batch_size):
            found.update(zip(rows, self._extract([tf.constant(images[row]) for row in rows])))
        return [found[row] for row in range(len(images))]

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) that an image is padded to."""
        return _round_up(height, self.bucket_px), _round_up(width, self.bucket_px)

    def _extract(self, images: list[tf.Tensor]) -> list[dict[str, tf.Tensor]]:
        passes = self.extractor.settings.passes()
        runs = [self._run_scale(images, one.scale, one.use_global) for one in passes]
        found = []
        for row, image in enumerate(images):
            maps = [
                {k: values[row : row + 1] for k, values in outputs.items()} for outputs, _ in runs
            ]
            sizes = [level_sizes[row] for _, level_sizes in runs]
            found.append(self._finish(maps, sizes, tf.constant(tuple(image.shape[:2]))))
        return found

    def _run_scale(
        self, images: list[tf.Tensor], scale: float, use_global: bool
    ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        scaled = [pyramid_level(tf.cast(image, tf.float32), scale) for image in images]
        sizes = [one.shape[:2] for one in scaled]
        padded = self.padded_size(*(max(size[axis] for size in sizes) for axis in (0, 1)))
        rows = [
            tf.pad(one, [[0, padded[0] - height], [0, padded[1] - width], [0, 0]])
            for one, (height, width) in zip(scaled, sizes)
        ]
        missing = self.batch_size - len(rows)
        batch = tf.stack(rows + [tf.zeros_like(rows[0])] * missing)
        valid = tf.constant([tuple(size) for size in sizes] + [(1, 1)] * missing, tf.int32)
        return self._network(batch, valid, use_global), [tf.constant(tuple(s)) for s in sizes]

    def _run(self, batch: tf.Tensor, sizes: tf.Tensor, use_global: bool) -> dict[str, tf.Tensor]:
        needed = ("global",) * use_global + ("local",) * self.extractor.use_local_features
        with valid_area(sizes, (batch.shape[1], batch.shape[2])):
            return self.extractor.model(batch, training=False, outputs=needed)

    def _select(
        self, maps: list[dict[str, tf.Tensor]], sizes: list[tf.Tensor], size: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Cuts the padding off one image's maps and does what the Extractor does with them."""
        extractor, levels = self.extractor, []
        for outputs, level_size, (scale, *_) in zip(maps, sizes, extractor.settings.passes()):
            level = {}
            if "global" in outputs:
                level["global"] = extractor.project_global(outputs["global"])
            if "features" in outputs:
                height, width = tf.unstack(cells(level_size, 16))
                inner = {name: outputs[name][:, :height, :width] for name in ("features", "scores")}
                found = extractor.cells(inner, size, level_size, scale)
                level.update({name: values[0] for name, values in found.items()})
            levels.append(level)
        return extractor.finish(levels)


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step
