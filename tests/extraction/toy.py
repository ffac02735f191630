"""A model whose features tell where they are: each cell's mean colour, 16 x 16 pixels a cell."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

CELL = 16


class ToyModel(tf.Module):
    """Local descriptor: (mean red, mean green, 1). Score: mean blue. Global: mean colour."""

    output_names_available = ("global", "local")
    local_output = "local"
    local_stride, local_dim, global_dim = CELL, 3, 3

    def __init__(self):
        super().__init__()
        self.options = {"name": "toy"}
        self.seen = []

    def local_offset(self, size):
        return (CELL - 1) / 2

    def __call__(self, images, training, outputs):
        self.seen.append(outputs)
        result = {}
        if "global" in outputs:
            result["global"] = tf.math.l2_normalize(tf.reduce_mean(images, axis=[1, 2]), axis=-1)
        if "local" in outputs:
            cells = tf.nn.avg_pool2d(images, CELL, CELL, "VALID")
            result["features"] = tf.concat([cells[..., :2], tf.ones_like(cells[..., :1])], axis=-1)
            result["scores"] = cells[..., 2]
        return result


def coordinates_image(height, width):
    """uint8 [H, W, 3] whose red is the row, green the column, blue a hundred."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 100)], axis=-1).astype(np.uint8)
