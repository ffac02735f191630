"""Plots of benchmarks' results as matplotlib figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


def growth(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws CPU seconds and peak memory of every stage against the number of images.

    Args:
      rows: of `delf_tf.benchmarks.scale.run`.
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    stages = dict.fromkeys(row["stage"] for row in rows)
    for axes, field, label in zip(panels, ("cpu_seconds", "peak_mb"), ("CPU seconds", "peak MB")):
        for stage in stages:
            points = [(row["num_images"], row[field]) for row in rows if row["stage"] == stage]
            axes.plot(*zip(*sorted(points)), marker="o", label=stage)
        axes.set(xscale="log", yscale="log", xlabel="images", ylabel=label)
        axes.grid(True, alpha=0.25)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    return figure


def bars(machines: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draws milliseconds as a bar a contender and machine.

    Args:
      machines: by name of the machine, milliseconds by contender.
    """
    names = list(dict.fromkeys(one for values in machines.values() for one in values))
    figure = Figure(figsize=(11, 1.2 + 0.28 * len(names) * len(machines)), layout="constrained")
    axes = figure.subplots()
    thick = 0.8 / len(machines)
    for number, (machine, values) in enumerate(machines.items()):
        places = [row + (number - (len(machines) - 1) / 2) * thick for row in range(len(names))]
        drawn = axes.barh(places, [values.get(one, 0) for one in names], thick, label=machine)
        axes.bar_label(drawn, fmt="{:.3g}", padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.margins(x=0.12)
    axes.legend(fontsize=8)
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


# By benchmark, what draws its rows.
PLOTS: dict[str, Callable[[Sequence[Mapping[str, Any]]], Figure]] = {
    "verify": verification_costs,
    "scale": growth,
}
