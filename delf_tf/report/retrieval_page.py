"""The page of `retrieve`: which queries are shown, with which pictures and words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging
from matplotlib.figure import Figure
from PIL import Image

from delf_tf import artifacts
from delf_tf.checks import InputError
from delf_tf.datasets import images
from delf_tf.report import comparison_plots, html, judged, tables
from delf_tf.report.plots import figure_bytes, matches_figure
from delf_tf.retrieval.second_stage.rerank import Verifications
from delf_tf.types import GroundTruth, ImageRef, LocalFeatures, Ranking, Verification

_NUM_MATCHES = 2
_MATCH_SIDE_PX = 400
# Queries that are shown with what the network sees in them.
_NUM_MAPS, _MAPS_DPI = 3, 80


class Verified(NamedTuple):
    """What the second stage found, for each query by database row, and of which features."""

    verifications: Verifications
    read_query: Callable[[str], LocalFeatures]
    read_database: Callable[[str], LocalFeatures]


def write(
    path: artifacts.StrPath,
    rankings: judged.Rankings,
    *,
    pictures: judged.Pictures,
    places: Mapping[str, str] | None,
    verified: Verified | None,
    paint: Callable[[ImageRef], Figure] | None = None,
    table: tables.Table,
    model_name: str,
    num_queries: int,
) -> Path:
    """Writes the report.

    Args:
      path: of the .html file.
      rankings: of the single stage, and of two stages if there are two.
      pictures: where the images are.
      places: by image id; None without labels.
      verified: of the second stage; None for single-stage retrieval.
      paint: draws what the network sees in an image; None, or its refusal, leaves that out.
      table: scores and costs.
      model_name: in the summary.
      num_queries: most queries shown.
    """
    stages = [one.ranking for one in rankings.values()]
    first, last = stages[0], stages[-1]
    sections = []
    for number, row in enumerate(choose_queries(rankings, num_queries)):
        query = first.query_ids[row]
        place = (places or {}).get(query, "")
        caption = f"{query} ({place})" if place else query
        section = judged.section(row, rankings, pictures, caption)
        if verified is not None:
            found = _matches(row, last, pictures, verified)
            section = dataclasses.replace(section, matches=found)
        if paint is not None and number < _NUM_MAPS:
            section = dataclasses.replace(section, maps=_maps(pictures.queries[query], paint))
        sections.append(section)
    plots = [*judged.plots(rankings), *_inlier_plot(rankings, verified)] if places else []
    return html.write_report(
        path,
        title="Image retrieval report",
        summary=[
            f"Model {model_name}; {len(first.database_ids)} database images, "
            f"{len(first.query_ids)} queries."
        ],
        tables=[table],
        notes=_notes(verified is not None, places is not None),
        plots=plots,
        queries=sections,
        has_labels=places is not None,
    )


def _inlier_plot(rankings: judged.Rankings, verified: Verified | None) -> list[html.Picture]:
    if verified is None:
        return []
    truth = next(iter(rankings.values())).truth
    figure = comparison_plots.inlier_histogram(*_inliers(verified.verifications, truth))
    words = "Inliers of verified pairs, of the same place and of others"
    return [html.plot("Inliers of verified pairs", figure, words)]


def _inliers(verifications: Verifications, truth: GroundTruth) -> tuple[np.ndarray, np.ndarray]:
    """Returns the inlier counts of matching and of other pairs, for the queries with positives."""
    matching, others = [], []
    for found, positives in zip(verifications, truth.positives):
        if len(positives):
            same = set(positives.tolist())
            for row, one in found.items():
                (matching if row in same else others).append(one.num_inliers)
    return np.array(matching, np.int64), np.array(others, np.int64)


def choose_queries(rankings: judged.Rankings, num_queries: int) -> list[int]:
    """Returns the rows of the queries to show.

    With scores: half are those that the second stage changes most (best and worst by the first
    stage if there is no second), half are spread evenly. Without: spread evenly.
    """
    first, *later = [one.aps for one in rankings.values()]
    scored = np.flatnonzero(~np.isnan(first)).tolist()
    if not scored:
        return _spread(list(range(len(first))), num_queries)
    gain = later[-1] - first if later else first
    by_gain = sorted(scored, key=lambda row: gain[row])
    quarter = max(1, num_queries // 4)
    telling = [*by_gain[-quarter:][::-1], *by_gain[:quarter]]
    chosen = list(dict.fromkeys(telling))
    rest = [row for row in scored if row not in chosen]
    return (chosen + _spread(rest, num_queries - len(chosen)))[:num_queries]


def _spread(rows: Sequence[int], number: int) -> list[int]:
    number = max(0, min(number, len(rows)))
    return [rows[at] for at in np.linspace(0, len(rows) - 1, number).astype(int)] if number else []


def _notes(two_stages: bool, has_labels: bool) -> list[str]:
    notes = [
        "Query images were used whole, not cropped. s/image: from file to features, on a few "
        "images, warm. ms/query: search and re-ranking of all queries; no building of the index."
    ]
    if has_labels:
        notes.append(
            "AP by the trapezoid rule of the revisited Oxford and Paris protocol; a query's own "
            "image is left out of its ranking; mAP by place weighs every place alike."
        )
    if two_stages:
        notes.append(judged.BLIND)
    return notes


def _matches(
    row: int, last: Ranking, pictures: judged.Pictures, verified: Verified
) -> list[html.Picture]:
    query, found = last.query_ids[row], verified.verifications[row]
    shown = [index for index in last.indices[row, :_NUM_MATCHES].tolist() if index in found]
    return [
        match_picture(
            (pictures.queries[query], pictures.database[last.database_ids[index]]),
            (verified.read_query(query), verified.read_database(last.database_ids[index])),
            found[index],
        )
        for index in shown
    ]


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
