"""Plots that set rankings beside each other; matplotlib figures, as in `delf_tf.report.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

# Colour-blind safe (Okabe and Ito), and each with a marker of its own.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = "osD^vP*X"


class Point(NamedTuple):
    """What one pipeline reaches, and at what cost.

    Attributes:
      name: shown.
      accuracy: mAP, 0..1.
      interval: its ends.
      seconds: from a query's file to its ranking.
      bytes_per_image: of the stored features.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    seconds: float
    bytes_per_image: float


def accuracy_cost(points: Sequence[Point], *, label: str = "mAP") -> Figure:
    """Draws mAP with its interval against seconds a query and against bytes an image.

    Args:
      points: one a pipeline.
      label: of the vertical axis.
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    costs = (("s a query", lambda p: p.seconds), ("kB an image", lambda p: p.bytes_per_image / 1e3))
    for axes, (title, cost) in zip(panels, costs):
        for number, point in enumerate(points):
            low, high = point.interval
            axes.errorbar(
                cost(point),
                point.accuracy,
                yerr=[[point.accuracy - low], [high - point.accuracy]],
                label=point.name,
                capsize=3,
                markersize=8,
                **_style(number),
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(title)
        axes.grid(True, which="both", alpha=0.25)
    panels[0].set_ylabel(label)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=8)
    return figure


def precision_recall(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draws mean precision over recall.

    Args:
      curves: by name, recall [P] and precision [P] as `mean_precision_at_recall` gives them.
    """
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (name, (recall, precision)) in enumerate(curves.items()):
        axes.plot(recall, precision, label=name, color=_COLORS[number % len(_COLORS)], lw=1.8)
    axes.set(xlabel="recall", ylabel="mean precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(True, alpha=0.25)
    axes.legend(fontsize=8)
    return figure


def average_precisions(per_query: Mapping[str, np.ndarray]) -> Figure:
    """Draws every query's average precision, queries sorted by the first ranking's.

    Args:
      per_query: by name, AP [Q] in 0..1, the same queries in each; NaN is left out.
    """
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    first = np.asarray(next(iter(per_query.values()), np.zeros(0)), float)
    order = np.argsort(-first, kind="stable")
    order = order[~np.isnan(first[order])]
    for number, (name, values) in enumerate(per_query.items()):
        style = {**_style(number), "linestyle": "-" if number == 0 else "none"}
        axes.plot(np.arange(len(order)), np.asarray(values)[order], label=name, ms=4, **style)
    axes.set(xlabel=f"{len(order)} queries, best first", ylabel="AP", ylim=(-0.02, 1.02))
    axes.grid(True, alpha=0.25)
    axes.legend(fontsize=8)
    return figure


def inlier_histogram(matching: np.ndarray, others: np.ndarray) -> Figure:
    """Draws how many inliers pairs of one place have, and how many other pairs.

    Args:
      matching: integer [M], inliers of the verified pairs that show the same.
      others: integer [O], of those that do not.
    """
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    most = max((int(np.max(v)) for v in (matching, others) if len(v)), default=0)
    # Counts spread over decades; the first bin is 0 alone.
    edges = np.unique(np.round(np.concatenate([[0, 1], np.geomspace(2, max(most + 1, 3), 24)])))
    for values, name, color in (
        (others, "other pairs", _COLORS[1]),
        (matching, "the same place", _COLORS[2]),
    ):
        if len(values):
            weights = np.full(len(values), 1 / len(values))
            axes.hist(
                values,
                bins=edges,
                weights=weights,
                alpha=0.6,
                color=color,
                label=f"{name} ({len(values)})",
            )
    axes.set_xscale("symlog", linthresh=2)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set(xlabel="inliers", ylabel="share of the pairs", xlim=(0, edges[-1]))
    axes.grid(True, alpha=0.25)
    if len(matching) or len(others):
        axes.legend(fontsize=8)
    return figure


def _style(number: int) -> dict[str, str]:
    return {
        "marker": _MARKERS[number % len(_MARKERS)],
        "color": _COLORS[number % len(_COLORS)],
        "linestyle": "none",
    }
