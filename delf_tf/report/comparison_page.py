"""The page of `compare`: one table, costs against accuracy, and where the pipelines disagree."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import delf_tf
from delf_tf import artifacts
from delf_tf.datasets import images
from delf_tf.evaluation.curves import mean_precision_at_recall
from delf_tf.evaluation.results import LABELS
from delf_tf.report import comparison_plots, html, tables
from delf_tf.types import GroundTruth, ImageRef, Ranking

_NUM_HITS = 6
# Of a revisited set's protocols, the one whose curves and queries are shown.
_SHOWN = (LABELS, "medium")
# The images of the queries and of the database, by id.
Images = tuple[Mapping[str, ImageRef], Mapping[str, ImageRef]]


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
    judged: Mapping[str, tuple[Ranking, GroundTruth]],
    pictures: Images,
    *,
    num_queries: int,
) -> Path:
    """Writes the page.

    Args:
      path: of the .html file.
      figures: of comparison.json.
      judged: by pipeline, its ranking of the same queries and their ground truth, by the protocol
        that `shown_protocol` chooses.
      pictures: the images.
      num_queries: most queries shown.
    """
    shown = shown_protocol(list(figures["pipelines"][0]["protocols"]))
    aps = {one["name"]: _per_query(one, shown) for one in figures["pipelines"]}
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
        plots=_plots(figures, judged, aps, shown),
        queries=[_section(row, judged, aps, pictures) for row in disagreements(aps, num_queries)],
        has_labels=True,
        footer=f"Made by delf_tf {delf_tf.__version__}.",
    )


def disagreements(aps: Mapping[str, np.ndarray], num_queries: int) -> list[int]:
    """Returns the rows of the queries on which the pipelines' APs are farthest apart."""
    values = np.stack(list(aps.values()))
    spread = np.nan_to_num(values.max(axis=0) - values.min(axis=0), nan=-1.0)
    order = np.argsort(-spread, kind="stable")
    return [int(row) for row in order[:num_queries] if spread[row] > 0]


def shown_protocol(names: Sequence[str]) -> str:
    """Returns the protocol whose curves and queries are shown."""
    return next((name for name in _SHOWN if name in names), names[0])


def _per_query(block: Mapping[str, Any], protocol: str) -> np.ndarray:
    values = block["protocols"][protocol]["per_query_ap"].values()
    return np.array([np.nan if one is None else one for one in values], float)


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
        notes.append(
            "Re-ranking was blind: which images it verified was decided by the first stage alone."
        )
    for block in blocks[1:]:
        test = block["against_first"][shown]
        notes.append(
            f"{block['name']}: better than {blocks[0]['name']} on {test['num_wins']} queries, "
            f"worse on {test['num_losses']}, equal on "
            f"{test['num_queries'] - test['num_wins'] - test['num_losses']}."
        )
    return notes


def _plots(
    figures: Mapping[str, Any],
    judged: Mapping[str, tuple[Ranking, GroundTruth]],
    aps: Mapping[str, np.ndarray],
    shown: str,
) -> list[html.Picture]:
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
    curves = {name: mean_precision_at_recall(*pair) for name, pair in judged.items()}
    drawn = (
        ("Accuracy and cost", comparison_plots.accuracy_cost(points)),
        ("Precision and recall", comparison_plots.precision_recall(curves)),
        ("Average precision of every query", comparison_plots.average_precisions(aps)),
    )
    words = "; ".join(f"{point.name} mAP {point.accuracy:.3f}" for point in points)
    return [html.plot(title, figure, f"{title}: {words}") for title, figure in drawn]


def _section(
    row: int,
    judged: Mapping[str, tuple[Ranking, GroundTruth]],
    aps: Mapping[str, np.ndarray],
    pictures: Images,
) -> html.QuerySection:
    first, _ = next(iter(judged.values()))
    query = first.query_ids[row]
    asked, database = pictures
    rows = [
        html.RankedRow(f"{name}, AP {aps[name][row]:.3f}", _hits(ranking, truth, row, database))
        for name, (ranking, truth) in judged.items()
    ]
    best, worst = (choose(aps, key=lambda name: aps[name][row]) for choose in (max, min))
    caption = f"{query}: won by {best}, lost by {worst}"
    return html.QuerySection(query, _thumbnail(asked[query]), caption, rows)


def _hits(
    ranking: Ranking, truth: GroundTruth, row: int, database: Mapping[str, ImageRef]
) -> list[html.Picture]:
    positives, junk = set(truth.positives[row].tolist()), set(truth.junk[row].tolist())
    hits = []
    for index in ranking.indices[row].tolist():
        if index < 0 or len(hits) == _NUM_HITS:
            break
        if index not in junk:
            verdict = "good" if index in positives else "bad"
            words = "same place" if index in positives else "another place"
            one = ranking.database_ids[index]
            hits.append(html.Picture(_thumbnail(database[one]), one, f"{one}, {words}", verdict))
    return hits


@functools.lru_cache(maxsize=1024)
def _thumbnail(ref: ImageRef) -> str:
    return html.thumbnail(images.read_image(ref))
