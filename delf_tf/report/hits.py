"""A figure of a query beside its results, for notebooks and scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

_SIDE_PX = 160
_COLUMNS = 5


def hits_figure(query: np.ndarray, hits: Sequence[tuple[np.ndarray, str]]) -> Figure:
    """Draws a query and its results, best first, in rows.

    Args:
      query: uint8 RGB [H, W, 3].
      hits: each with its caption; may be empty.
    """
    pictures = [(query, "query"), *hits]
    columns = min(_COLUMNS, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    figure = Figure(figsize=(2 * columns, 2.2 * rows), dpi=100, facecolor="white")
    for place, (image, caption) in enumerate(pictures, start=1):
        axes = figure.add_subplot(rows, columns, place)
        small = Image.fromarray(image)
        small.thumbnail((_SIDE_PX, _SIDE_PX))
        axes.imshow(np.asarray(small))
        axes.set_title(caption, fontsize=7, wrap=True)
        axes.set_axis_off()
    figure.tight_layout()
    return figure
