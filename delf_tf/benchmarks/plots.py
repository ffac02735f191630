"""Plots of benchmarks' results; matplotlib figures, as in `delf_tf.report.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# A benchmark's common setting, from which each panel varies one field.
_COMMON = {"num_features": 1000, "true_fraction": 0.15, "dim": 40}
_STAGES = ("whole pair", "mutual")


def verification_costs(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws milliseconds a pair against the number of features and the share of true matches.

    Args:
      rows: of `delf_tf.benchmarks.matching.run`.

    Returns:
      Two panels with logarithmic axes, a line for each contender; dashed where matching is not
      included.
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, field, label in zip(
        panels, ("num_features", "true_fraction"), ("features an image", "share of true matches")
    ):
        _panel(axes, rows, field)
        axes.set_xlabel(label)
    panels[0].set_ylabel("ms a pair")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    return figure


def _panel(axes: Axes, rows: Sequence[Mapping[str, Any]], field: str) -> None:
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        common = all(row[key] == value for key, value in _COMMON.items() if key != field)
        if common and row["stage"] in _STAGES:
            lines.setdefault((row["stage"], row["contender"]), []).append((row[field], row["ms"]))
    for (stage, contender), points in lines.items():
        whole = stage == "whole pair"
        axes.plot(
            *zip(*sorted(points)),
            marker="o",
            linewidth=2.5 if contender.startswith("ours") else 1.2,
            linestyle="-" if whole else "--",
            label=f"{contender} ({'match + verify' if whole else 'verify alone'})",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({x for points in lines.values() for x, _ in points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(True, which="both", alpha=0.25)
