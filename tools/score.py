"""From rankings to the metrics file and the table that compares single-stage with two-stage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from delf_tf.datasets import folder
from delf_tf.evaluation import metrics
from delf_tf.report.html import Table
from delf_tf.types import Ranking

SINGLE_STAGE, TWO_STAGE = "single_stage", "two_stage"
_TITLES = {SINGLE_STAGE: "single-stage", TWO_STAGE: "two-stage"}

# Column title, key in the metrics, format.
_SCORES = (
    ("mAP", "mAP", "{:.3f}"),
    ("mAP by place", "mAP_by_place", "{:.3f}"),
    ("P@1", "P@1", "{:.3f}"),
    ("queries", "num_queries", "{:d}"),
)
_COSTS = (
    ("s/image", "seconds_per_image", "{:.3f}"),
    ("bytes/image", "bytes_per_image", "{:,.0f}"),
    ("ms/query", "seconds_per_query", "{:.1f}"),
)


def score_rankings(
    rankings: Mapping[str, Ranking],
    labels: Mapping[str, str] | None,
    costs: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Returns the content of metrics.json: one block a stage, scores only where labels are given.

    Args:
      rankings: by stage.
      labels: place of each image; None gives the costs alone.
      costs: by stage, what is shown beside the scores.
    """
    blocks: dict[str, Any] = {}
    for stage, ranking in rankings.items():
        scores = {} if labels is None else score(ranking, labels)
        blocks[stage] = {**scores, **costs[stage], "queries_cropped": False}
        if stage == TWO_STAGE:
            # No ground truth is looked at before the images to verify are chosen.
            blocks[stage]["rerank_blind"] = True
    return {**blocks, "queries_cropped": False}


def score(ranking: Ranking, labels: Mapping[str, str]) -> dict[str, Any]:
    """Scores one ranking by the protocol of the revisited benchmarks (evaluation.metrics)."""
    truth = folder.ground_truth(ranking.query_ids, ranking.database_ids, labels)
    result = metrics.evaluate_ranking(ranking, truth)
    places = folder.places(ranking.query_ids, labels)
    return {
        "mAP": _number(result.mAP),
        "mAP_by_place": _number(metrics.mean_by_place(result.per_query_ap, places)),
        **{f"P@{k}": _number(value) for k, value in result.mP.items()},
        "num_queries": result.num_queries,
        "per_query_ap": {
            one: _number(ap)
            for one, ap in zip(result.query_ids, result.per_query_ap)
            if not math.isnan(ap)
        },
    }


def summary_table(scored: Mapping[str, Any]) -> Table:
    """Returns the table of the stages; columns without a value in any stage are left out."""
    stages = [stage for stage in _TITLES if stage in scored]
    columns = [c for c in (*_SCORES, *_COSTS) if any(c[1] in scored[stage] for stage in stages)]
    return Table(
        caption="Single-stage and two-stage retrieval",
        header=["", *(title for title, _, _ in columns)],
        rows=[
            [
                _TITLES[stage],
                *(_cell(scored[stage].get(key), key, form) for _, key, form in columns),
            ]
            for stage in stages
        ],
    )


def _cell(value: float | None, key: str, form: str) -> str:
    if value is None:
        return "-"
    return form.format(value * 1e3 if key == "seconds_per_query" else value)


def _number(value: float) -> float | None:
    """Returns a number that JSON holds: NaN, the mean of no queries, becomes null."""
    return None if math.isnan(value) else float(value)
