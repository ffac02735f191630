"""Figures of what a network sees in one image: heat maps, and the local features it chose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from delf_tf.checks import as_array, require
from delf_tf.types import LocalFeatures

_COLUMNS = 3
_PANEL_INCHES = 4.2
_OPACITY = 0.55
_COLOR_PERCENTILES = (2, 98)
# Of a panel's width what a colour bar takes.
_BAR_INCHES = 0.8
# Half the distance of neighbouring features at scale 1, pixels.
_RADIUS_PX = 8.0


def overview_figure(
    image: np.ndarray, maps: Sequence[Any], features: LocalFeatures | None = None
) -> Figure:
    """Draws an image, its maps and its local features side by side.

    Args:
      image: uint8 [H, W, 3].
      maps: each with title, values [h, w], offset and stride, as extraction.inspection gives them.
      features: locations in pixels of `image`, or None.

    Returns:
      The figure.
    """
    figure, axes = _panels(image, 1 + len(maps) + (features is not None))
    axes[0].imshow(image)
    axes[0].set_title("image", fontsize=10)
    for one, panel in zip(maps, axes[1:]):
        _draw_map(figure, panel, image, one.values, offset=one.offset, stride=one.stride)
        panel.set_title(one.title, fontsize=10)
    if features is not None:
        _draw_keypoints(figure, axes[-1], image, features)
        axes[-1].set_title(f"{len(features)} local features", fontsize=10)
    return figure


def _panels(image: np.ndarray, count: int) -> tuple[Figure, list[Axes]]:
    image = as_array("image", image, ("H", "W", 3), np.uint8)
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    # A ribbon of a picture must not make a ribbon of a figure.
    ratio = float(np.clip(image.shape[0] / image.shape[1], 0.3, 3.0))
    size = (_PANEL_INCHES * columns, ((_PANEL_INCHES - _BAR_INCHES) * ratio + 0.4) * rows)
    figure = Figure(figsize=size, dpi=100, facecolor="white", layout="compressed")
    grid = np.ravel(figure.subplots(rows, columns, squeeze=False)).tolist()
    for axes in grid:
        axes.set_axis_off()
    return figure, grid[:count]


def _draw_map(
    figure: Figure,
    axes: Axes,
    image: np.ndarray,
    values: np.ndarray,
    *,
    offset: tuple[float, float],
    stride: float,
) -> None:
    values = as_array("values", values, ("h", "w"))
    require(values.size > 0 and stride > 0, "A map must have cells and a stride.", values=values)
    axes.imshow(image)
    # Cells at the edge stand for what lies beyond them, so that the map covers its image.
    covering = np.pad(values, 1, mode="edge")
    top, left = (start - 1.5 * stride for start in offset)
    bottom, right = (start + stride * n for start, n in zip((top, left), covering.shape))
    # A few cells, often at corners where padding is what they see, would hide all others.
    low, high = np.percentile(values, _COLOR_PERCENTILES)
    drawn = axes.imshow(
        covering,
        cmap="inferno",
        alpha=_OPACITY,
        extent=(left, right, bottom, top),
        interpolation="bilinear",
        vmin=low,
        vmax=high,
    )
    figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02, extend="both")
    _frame(axes, image)


def _draw_keypoints(figure: Figure, axes: Axes, image: np.ndarray, features: LocalFeatures) -> None:
    axes.imshow(image)
    # Weak ones first, so that strong ones lie on top.
    order = np.argsort(features.scores, kind="stable")
    diameters = 2 * _RADIUS_PX * features.scales[order]
    circles = EllipseCollection(
        diameters,
        diameters,
        np.zeros(len(order)),
        units="xy",
        offsets=features.locations[order][:, ::-1],
        offset_transform=axes.transData,
        facecolors="none",
        linewidths=1.0,
        cmap="viridis",
    )
    circles.set_array(features.scores[order])
    axes.add_collection(circles)
    if len(order):
        figure.colorbar(circles, ax=axes, fraction=0.04, pad=0.02, label="score")
    _frame(axes, image)


def _frame(axes: Axes, image: np.ndarray) -> None:
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(image.shape[0] - 0.5, -0.5)
