"""The page of `retrieve`: which queries are shown, with which pictures and words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from matplotlib.figure import Figure
from PIL import Image

import delf_tf
from delf_tf import artifacts
from delf_tf.checks import InputError
from delf_tf.datasets import folder, images
from delf_tf.evaluation.curves import mean_precision_at_recall
from delf_tf.evaluation.results import SINGLE_STAGE, TWO_STAGE
from delf_tf.report import comparison_plots, html, tables
from delf_tf.report.plots import figure_bytes, matches_figure
from delf_tf.retrieval.second_stage.rerank import Verifications
from delf_tf.types import GroundTruth, ImageRef, LocalFeatures, Ranking, Verification

_NUM_HITS = 8
_NUM_MATCHES = 2
_MATCH_SIDE_PX = 400
# Queries that are shown with what the network sees in them.
_NUM_MAPS, _MAPS_DPI = 3, 80


class Verified(NamedTuple):
    """What the second stage found, for each query by database row, and of which features."""

    verifications: Verifications
    read_query: Callable[[str], LocalFeatures]
    read_database: Callable[[str], LocalFeatures]


class Pictures(NamedTuple):
    """Where the report finds images: ids to files, for each side."""

    queries: Mapping[str, ImageRef]
    database: Mapping[str, ImageRef]


def write(
    path: artifacts.StrPath,
    rankings: Mapping[str, Ranking],
    *,
    pictures: Pictures,
    places: Mapping[str, str] | None,
    average_precisions: Mapping[str, Mapping[str, float]],
    verified: Verified | None,
    paint: Callable[[ImageRef], Figure] | None = None,
    table: tables.Table,
    plots: Sequence[html.Picture] = (),
    model_name: str,
    num_queries: int,
) -> Path:
    """Writes the report.

    Args:
      path: of the .html file.
      rankings: by stage, the same queries in each.
      pictures: where the images are.
      places: by image id; None without labels.
      average_precisions: by stage and query id, for scored queries.
      verified: of the second stage; None for single-stage retrieval.
      paint: draws what the network sees in an image; None, or its refusal, leaves that out.
      table: scores and costs.
      plots: below the table.
      model_name: in the summary.
      num_queries: most queries shown.
    """
    first = rankings[SINGLE_STAGE]
    rows = choose_queries(first, average_precisions, num_queries)
    sections = [
        _section(
            row,
            rankings,
            pictures=pictures,
            places=places,
            aps=average_precisions,
            verified=verified,
        )
        for row in rows
    ]
    if paint is not None:
        sections[:_NUM_MAPS] = [
            dataclasses.replace(section, maps=_maps(pictures.queries[section.id], paint))
            for section in sections[:_NUM_MAPS]
        ]
    return html.write_report(
        path,
        title="Image retrieval report",
        summary=[
            f"Model {model_name}; {len(first.database_ids)} database images, "
            f"{len(first.query_ids)} queries."
        ],
        tables=[table],
        notes=_notes(rankings, places is not None),
        plots=plots,
        queries=sections,
        has_labels=places is not None,
        footer=f"Made by delf_tf {delf_tf.__version__}.",
    )


def plots(
    rankings: Mapping[str, Ranking],
    scored: Mapping[str, Any],
    labels: Mapping[str, str] | None,
    verifications: Verifications,
) -> list[html.Picture]:
    """Returns the figures of labelled runs: curves of each stage, inliers of pairs.

    Args:
      rankings: by stage.
      scored: the stages' blocks of metrics.json.
      labels: None gives no figures.
      verifications: of the second stage, a query each; empty without one.
    """
    if labels is None:
        return []
    first = rankings[SINGLE_STAGE]
    truth = folder.ground_truth(first.query_ids, first.database_ids, labels, first.left_out)
    names = {stage: stage.replace("_", "-") for stage in rankings}
    curves = {names[s]: mean_precision_at_recall(one, truth) for s, one in rankings.items()}
    aps = {
        names[stage]: np.array(
            [np.nan if ap is None else ap for ap in scored[stage]["per_query_ap"].values()], float
        )
        for stage in rankings
    }
    pictures = [
        html.plot(
            "Precision and recall",
            comparison_plots.precision_recall(curves),
            "Mean precision over recall of each stage",
        ),
        html.plot(
            "Average precision of every query",
            comparison_plots.average_precisions(aps),
            "Average precision of each query, sorted by the single stage's",
        ),
    ]
    if verifications:
        figure = comparison_plots.inlier_histogram(*_inliers(verifications, truth))
        words = "Inliers of verified pairs, of the same place and of others"
        pictures.append(html.plot("Inliers of verified pairs", figure, words))
    return pictures


def _inliers(verifications: Verifications, truth: GroundTruth) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inlier counts of matching and of other pairs, for the queries with positives."""
    matching, others = [], []
    for found, positives in zip(verifications, truth.positives):
        if len(positives):
            same = set(positives.tolist())
            for row, one in found.items():
                (matching if row in same else others).append(one.num_inliers)
    return np.array(matching, np.int64), np.array(others, np.int64)


def choose_queries(
    ranking: Ranking, average_precisions: Mapping[str, Mapping[str, float]], num_queries: int
) -> list[int]:
    """Returns the rows of the queries to show.

    With scores: half are those that the second stage changes most (best and worst by the first
    stage if there is no second), half are spread evenly. Without: spread evenly.
    """
    row_of = {one: row for row, one in enumerate(ranking.query_ids)}
    single = average_precisions.get(SINGLE_STAGE, {})
    scored = [row_of[one] for one in single]
    if not scored:
        return _spread(list(range(len(row_of))), num_queries)
    last = average_precisions.get(TWO_STAGE)
    gain = {row_of[one]: (last[one] - ap if last else ap) for one, ap in single.items()}
    by_gain = sorted(gain, key=lambda row: gain[row])
    quarter = max(1, num_queries // 4)
    telling = [*by_gain[-quarter:][::-1], *by_gain[:quarter]]
    chosen = list(dict.fromkeys(telling))
    rest = [row for row in scored if row not in chosen]
    return (chosen + _spread(rest, num_queries - len(chosen)))[:num_queries]


def _spread(rows: Sequence[int], number: int) -> list[int]:
    number = max(0, min(number, len(rows)))
    return [rows[at] for at in np.linspace(0, len(rows) - 1, number).astype(int)] if number else []


def _notes(rankings: Mapping[str, Ranking], has_labels: bool) -> list[str]:
    notes = [
        "Query images were used whole, not cropped. s/image: from file to features, on a few "
        "images, warm. ms/query: search and re-ranking of all queries; no building of the index."
    ]
    if has_labels:
        notes.append(
            "AP by the trapezoid rule of the revisited Oxford and Paris protocol; a query's own "
            "image is left out of its ranking; mAP by place weighs every place alike."
        )
    if TWO_STAGE in rankings:
        notes.append(
            "Re-ranking was blind: which images it verified was decided by the first stage alone."
        )
    return notes


def _section(
    row: int,
    rankings: Mapping[str, Ranking],
    *,
    pictures: Pictures,
    places: Mapping[str, str] | None,
    aps: Mapping[str, Mapping[str, float]],
    verified: Verified | None,
) -> html.QuerySection:
    query = rankings[SINGLE_STAGE].query_ids[row]
    rows = []
    for stage, ranking in rankings.items():
        ap = aps.get(stage, {}).get(query)
        title = stage.replace("_", "-") + (f", AP {ap:.3f}" if ap is not None else "")
        hits = [
            _hit(query, ranking.database_ids[index], pictures, places)
            for index in ranking.indices[row, :_NUM_HITS]
            if index >= 0
        ]
        rows.append(html.RankedRow(title, hits))
    place = (places or {}).get(query, "")
    caption = f"{query} ({place})" if place else query
    matches = []
    if verified is not None:
        last, found = rankings[TWO_STAGE], verified.verifications[row]
        matches = [
            match_picture(
                (pictures.queries[query], pictures.database[last.database_ids[index]]),
                (verified.read_query(query), verified.read_database(last.database_ids[index])),
                found[index],
            )
            for index in last.indices[row, :_NUM_MATCHES].tolist()
            if index in found
        ]
    thumbnail = html.thumbnail(images.read_image(pictures.queries[query]))
    return html.QuerySection(query, thumbnail, caption, rows, matches)


def _hit(
    query: str, hit: str, pictures: Pictures, places: Mapping[str, str] | None
) -> html.Picture:
    verdict, alt = "", hit
    if places is not None and places.get(query):
        same = places.get(hit) == places[query]
        verdict, alt = ("good", f"{hit}, same place") if same else ("bad", f"{hit}, another place")
    return html.Picture(
        html.thumbnail(images.read_image(pictures.database[hit])), hit, alt, verdict
    )


def match_picture(
    refs: tuple[ImageRef, ImageRef],
    features: tuple[LocalFeatures, LocalFeatures],
    found: Verification,
) -> html.Picture:
    """Returns a query beside a database image with lines between their matches."""
    (query_image, query_factor), (database_image, database_factor) = map(_small, refs)
    figure = matches_figure(
        query_image,
        database_image,
        features[0].locations[found.matches[:, 0]] * query_factor,
        features[1].locations[found.matches[:, 1]] * database_factor,
        found.inlier_mask,
        transform=_scaling(database_factor) @ found.transform @ _scaling(1 / query_factor),
    )
    words = f"{found.num_inliers} inliers of {len(found.matches)} matches"
    return html.Picture(
        html.data_uri(figure_bytes(figure, "jpg"), "image/jpeg"),
        f"{refs[0].id} and {refs[1].id}: {words}",
        f"{refs[0].id} beside {refs[1].id} with lines between {words}",
    )


def _maps(ref: ImageRef, paint: Callable[[ImageRef], Figure]) -> html.Picture | None:
    try:
        figure = paint(ref)
    except InputError as error:
        logging.info("No maps in the report: %s", error)
        return None
    return html.Picture(
        html.data_uri(figure_bytes(figure, "jpg", dpi=_MAPS_DPI), "image/jpeg"),
        "What the network sees",
        f"Maps of the network and its local features over {ref.id}",
    )


def _small(ref: ImageRef) -> tuple[np.ndarray, float]:
    """Returns the image at report size and the factor that took it there."""
    image = Image.fromarray(images.read_image(ref))
    factor = min(1.0, _MATCH_SIDE_PX / max(image.size))
    size = tuple(max(1, round(side * factor)) for side in image.size)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS)), factor


def _scaling(factor: float) -> np.ndarray:
    return np.diag([factor, factor, 1.0])
