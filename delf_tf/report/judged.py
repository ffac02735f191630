"""Rankings of the same queries beside each other: their curves, and the images they put first."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from delf_tf.datasets import images
from delf_tf.evaluation.curves import mean_precision_at_recall
from delf_tf.report import comparison_plots, html
from delf_tf.types import GroundTruth, ImageRef, Ranking

_NUM_HITS = 8
# A note on rankings of two stages.
BLIND = "Re-ranking was blind: which images it verified was decided by the first stage alone."


class Judged(NamedTuple):
    """One of several rankings of the same Q queries.

    Attributes:
      ranking: its results.
      truth: of the queries; None without labels.
      aps: float [Q], average precisions; NaN for a query that is not scored.
    """

    ranking: Ranking
    truth: GroundTruth | None
    aps: np.ndarray


class Pictures(NamedTuple):
    """Where a page finds images: ids to files, for each side."""

    queries: Mapping[str, ImageRef]
    database: Mapping[str, ImageRef]


# By the name that is shown.
Rankings = Mapping[str, Judged]


def plots(rankings: Rankings) -> list[html.Picture]:
    """Returns the figures of labelled rankings: precision over recall, and every query's AP."""
    curves = {
        name: mean_precision_at_recall(one.ranking, one.truth) for name, one in rankings.items()
    }
    aps = {name: one.aps for name, one in rankings.items()}
    drawn = (
        ("Precision and recall", comparison_plots.precision_recall(curves)),
        ("Average precision of every query", comparison_plots.average_precisions(aps)),
    )
    return [html.plot(title, figure, f"{title}: {', '.join(rankings)}") for title, figure in drawn]


def section(row: int, rankings: Rankings, pictures: Pictures, caption: str) -> html.QuerySection:
    """Returns a query beside the head of each ranking, its place in which is `row`."""
    first = next(iter(rankings.values())).ranking
    query = first.query_ids[row]
    heads = [
        html.RankedRow(
            name if np.isnan(one.aps[row]) else f"{name}, AP {one.aps[row]:.3f}",
            _hits(one, row, pictures.database),
        )
        for name, one in rankings.items()
    ]
    return html.QuerySection(query, _thumbnail(pictures.queries[query]), caption, heads)


def _hits(one: Judged, row: int, database: Mapping[str, ImageRef]) -> list[html.Picture]:
    rows = [index for index in one.ranking.indices[row].tolist() if index >= 0]
    positives: set[int] = set()
    if one.truth is not None:
        junk = set(one.truth.junk[row].tolist())
        rows = [index for index in rows if index not in junk]
        positives.update(one.truth.positives[row].tolist())
    hits = []
    for index in rows[:_NUM_HITS]:
        name = one.ranking.database_ids[index]
        verdict, alt = "", name
        if positives:
            same = index in positives
            verdict = "good" if same else "bad"
            alt = f"{name}, {'same' if same else 'another'} place"
        hits.append(html.Picture(_thumbnail(database[name]), name, alt, verdict))
    return hits


@functools.lru_cache(maxsize=1024)
def _thumbnail(ref: ImageRef) -> str:
    return html.thumbnail(images.read_image(ref))
