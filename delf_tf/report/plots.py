"""Plots as functions that return matplotlib figures; nothing here opens a window."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from delf_tf import artifacts
from delf_tf.checks import require_choice

INLIER_COLOR = "#35d07f"
OUTLIER_COLOR = "#ff5a4f"
_GAP_PX = 12


def matches_figure(
    query_image: np.ndarray,
    database_image: np.ndarray,
    query_locations: np.ndarray,
    database_locations: np.ndarray,
    inlier_mask: np.ndarray,
    *,
    transform: np.ndarray | None = None,
    show_outliers: bool = False,
    title: str = "",
) -> Figure:
    """Draws two images side by side with lines between matched features.

    Args:
      query_image: uint8 [H, W, 3], on the left.
      database_image: uint8 [H', W', 3], on the right.
      query_locations: float [M, 2], (y, x) pixels of the query image, one row a match.
      database_locations: float [M, 2], (y, x) pixels of the database image.
      inlier_mask: bool [M].
      transform: [3, 3], homogeneous (x, y, 1) query to database; draws the query's warped outline.
      show_outliers: draw the other matches too, in red.
      title: above the pictures.

    Returns:
      The figure, one point a pixel of the larger image at 100 dots an inch.
    """
    height = max(query_image.shape[0], database_image.shape[0])
    shift = query_image.shape[1] + _GAP_PX
    width = shift + database_image.shape[1]
    title_px = 28 if title else 0
    figure = Figure(figsize=(width / 100, (height + title_px) / 100), dpi=100, facecolor="white")
    axes = figure.add_axes((0, 0, 1, height / (height + title_px)))
    canvas = np.full((height, width, 3), 255, np.uint8)
    canvas[: query_image.shape[0], : query_image.shape[1]] = query_image
    canvas[: database_image.shape[0], shift:] = database_image
    axes.imshow(canvas, interpolation="none")
    axes.set_axis_off()
    inlier_mask = np.asarray(inlier_mask, bool)
    starts = np.asarray(query_locations, float).reshape(-1, 2)[:, ::-1]
    ends = np.asarray(database_locations, float).reshape(-1, 2)[:, ::-1] + (shift, 0)
    if show_outliers:
        _lines(axes, starts[~inlier_mask], ends[~inlier_mask], OUTLIER_COLOR, alpha=0.35)
    _lines(axes, starts[inlier_mask], ends[inlier_mask], INLIER_COLOR, alpha=0.8)
    if transform is not None and np.any(transform):
        _outline(axes, query_image.shape, transform, shift)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    if title:
        figure.suptitle(title, fontsize=11, y=1 - 6 / (height + title_px), va="top")
    return figure


def save_figure(figure: Figure, path: artifacts.StrPath) -> Path:
    """Writes a figure atomically; the ending of `path` (.png, .jpg, .pdf, .svg) decides the format.

    Raises:
      InputError: an ending that matplotlib does not write.
    """
    ending = Path(path).suffix.lstrip(".").lower()
    kinds = figure.canvas.get_supported_filetypes()
    require_choice("The ending of the output file", ending, sorted(kinds))
    return artifacts.write_bytes(path, figure_bytes(figure, ending))


def figure_bytes(figure: Figure, kind: str = "png", *, dpi: float | None = None) -> bytes:
    """Returns a figure as a file's bytes; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else None
    figure.savefig(buffer, format=kind, dpi=dpi or figure.dpi, metadata=metadata)
    return buffer.getvalue()


def _lines(axes: Axes, starts: np.ndarray, ends: np.ndarray, color: str, *, alpha: float) -> None:
    segments = np.stack([starts, ends], axis=1)
    axes.add_collection(LineCollection(segments, colors=color, linewidths=0.9, alpha=alpha))
    for points in (starts, ends):
        axes.plot(*points.T, "o", ms=3, mfc="none", mec=color, mew=0.9, alpha=alpha)


def _outline(axes: Axes, shape: tuple[int, ...], transform: np.ndarray, shift: int) -> None:
    bottom, right = shape[0] - 1, shape[1] - 1
    corners = np.array([[0, 0, 1], [right, 0, 1], [right, bottom, 1], [0, bottom, 1]], float)
    warped = corners @ np.asarray(transform, float).T
    # A corner on or behind the camera's horizon has no place in the picture.
    if (warped[:, 2] <= 1e-9).any():
        return
    points = warped[:, :2] / warped[:, 2:] + (shift, 0)
    closed = np.concatenate([points, points[:1]])
    axes.plot(closed[:, 0], closed[:, 1], "-", color="#ffd23f", lw=1.6, alpha=0.9)
