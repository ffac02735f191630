"""The page of `compare`: one table, costs against accuracy, and where the pipelines disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf import artifacts
from delf_tf.evaluation.results import LABELS
from delf_tf.report import comparison_plots, html, judged, tables

# Of a revisited set's protocols, the one whose curves and queries are shown.
_SHOWN = (LABELS, "medium")


def table(figures: Mapping[str, Any]) -> tables.Table:
    """Returns a row a pipeline: mAP by protocol with its interval, the test, and the costs."""
    names = list(figures["pipelines"][0]["protocols"])
    shown = shown_protocol(names)
    titles = ["mAP" if name == LABELS else f"mAP {name}" for name in names]
    header = ["", *titles]
    by_place = "mAP_by_place" in figures["pipelines"][0]["protocols"][shown]
    header += ["by place"] if by_place else []
    header += ["P@1", "against the first", "s/image", "kB/image", "search ms", "re-rank ms"]
    header += ["index MB"]
    rows = [_row(one, names, shown, by_place) for one in figures["pipelines"]]
    return tables.Table("All pipelines on the same queries", header, rows)


def write(
    path: artifacts.StrPath,
    figures: Mapping[str, Any],
    rankings: judged.Rankings,
    pictures: judged.Pictures,
    *,
    num_queries: int,
) -> Path:
    """Writes the page.

    Args:
      path: of the .html file.
      figures: of comparison.json.
      rankings: by pipeline, judged by the protocol that `shown_protocol` chooses.
      pictures: where the images are.
      num_queries: most queries shown.
    """
    shown = shown_protocol(list(figures["pipelines"][0]["protocols"]))
    cropped = "cropped to their boxes" if figures["queries_cropped"] else "used whole, not cropped"
    return html.write_report(
        path,
        title="Comparison of retrieval pipelines",
        summary=[
            f"{figures['num_queries']} queries in {figures['num_database_images']} database "
            f"images; ground truth {figures['ground_truth']}. Query images were {cropped}."
        ],
        tables=[table(figures)],
        notes=_notes(figures["pipelines"], shown),
        plots=[_cost_plot(figures, shown), *judged.plots(rankings)],
        queries=[
            judged.section(row, rankings, pictures, _caption(row, rankings))
            for row in disagreements(rankings, num_queries)
        ],
        has_labels=True,
    )


def disagreements(rankings: judged.Rankings, num_queries: int) -> list[int]:
    """Returns the rows of the queries on which the pipelines' APs are farthest apart."""
    values = np.stack([one.aps for one in rankings.values()])
    spread = np.nan_to_num(values.max(axis=0) - values.min(axis=0), nan=-1.0)
    order = np.argsort(-spread, kind="stable")
    return [int(row) for row in order[:num_queries] if spread[row] > 0]


def shown_protocol(names: Sequence[str]) -> str:
    """Returns the protocol whose curves and queries are shown."""
    return next((name for name in _SHOWN if name in names), names[0])


def _row(block: Mapping[str, Any], names: Sequence[str], shown: str, by_place: bool) -> list[str]:
    cells = [block["name"]]
    for name in names:
        figures = block["protocols"][name]
        cells.append(f"{_number(figures['mAP'])} ({_interval(figures['mAP_interval'])})")
    main = block["protocols"][shown]
    cells += [_number(main["mAP_by_place"])] if by_place else []
    costs, test = block["costs"], block["against_first"].get(shown)
    return [
        *cells,
        _number(main["P@1"]),
        "-" if test is None else f"{test['difference']:+.3f}, p = {test['p_value']:.2g}",
        f"{costs['seconds_per_image']:.3f}",
        f"{costs['bytes_per_image'] / 1e3:.1f}",
        f"{1e3 * costs['search_seconds']:.2f}",
        f"{1e3 * costs['rerank_seconds']:.1f}" if block["stages"] == 2 else "-",
        f"{costs['index_bytes'] / 1e6:.2f}",
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(ends: Sequence[float | None]) -> str:
    return " to ".join(_number(one) for one in ends)


def _notes(blocks: Sequence[Mapping[str, Any]], shown: str) -> list[str]:
    notes = [
        "In brackets the 95 % bootstrap interval over queries. AP by the trapezoid rule of the "
        "revisited Oxford and Paris protocol.",
        "Against the first: mean difference of AP and the p-value of Fisher's paired "
        "randomisation test. With several pipelines a few small p-values are chance.",
        "s/image: from a picture's file to its features, warm, median of a few; a query costs it "
        "too. Search: all queries in one batch. Re-rank: a query's whole head; reading included.",
    ]
    if any(block["stages"] == 2 for block in blocks):
        notes.append(judged.BLIND)
    for block in blocks[1:]:
        test = block["against_first"][shown]
        notes.append(
            f"{block['name']}: better than {blocks[0]['name']} on {test['num_wins']} queries, "
            f"worse on {test['num_losses']}, equal on "
            f"{test['num_queries'] - test['num_wins'] - test['num_losses']}."
        )
    return notes


def _cost_plot(figures: Mapping[str, Any], shown: str) -> html.Picture:
    points = [
        comparison_plots.Point(
            one["name"],
            one["protocols"][shown]["mAP"],
            tuple(one["protocols"][shown]["mAP_interval"]),
            one["costs"]["seconds_per_image"] + one["costs"]["seconds_per_query"],
            one["costs"]["bytes_per_image"],
        )
        for one in figures["pipelines"]
    ]
    title = "Accuracy and cost"
    words = "; ".join(f"{point.name} mAP {point.accuracy:.3f}" for point in points)
    return html.plot(title, comparison_plots.accuracy_cost(points), f"{title}: {words}")


def _caption(row: int, rankings: judged.Rankings) -> str:
    first = next(iter(rankings.values())).ranking
    best, worst = (
        choose(rankings, key=lambda name: rankings[name].aps[row]) for choose in (max, min)
    )
    return f"{first.query_ids[row]}: won by {best}, lost by {worst}"
