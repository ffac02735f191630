"""From rankings to the metrics file and the table that compares single-stage with two-stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from delf_tf.datasets import folder
from delf_tf.evaluation import metrics, results
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
    *,
    first_stage: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the content of metrics.json: one block a stage, scores only where labels are given.

    Args:
      rankings: by stage.
      labels: place of each image; None gives the costs alone.
      costs: by stage, what is shown beside the scores.
      first_stage: the search's settings, written into the single stage's block.
    """
    blocks: dict[str, Any] = {}
    for stage, ranking in rankings.items():
        # No ground truth is looked at before the images to verify are chosen.
        conditions = results.Conditions(False, blind_reranking=True if stage == TWO_STAGE else None)
        scores = {} if labels is None else score(ranking, labels, conditions)
        blocks[stage] = {**scores, **costs[stage]}
    if first_stage is not None:
        blocks[SINGLE_STAGE]["first_stage"] = dict(first_stage)
    return results.json_ready({**blocks, "queries_cropped": False})


def score(
    ranking: Ranking, labels: Mapping[str, str], conditions: results.Conditions | None = None
) -> dict[str, Any]:
    """Scores one ranking by the protocol of the revisited benchmarks (evaluation.metrics)."""
    truth = folder.ground_truth(ranking.query_ids, ranking.database_ids, labels)
    scored = metrics.evaluate_ranking(ranking, truth)
    places = folder.places(ranking.query_ids, labels)
    return results.ranking_results(scored, conditions, places=places)


def average_precisions(block: Mapping[str, Any]) -> dict[str, float]:
    """Returns AP by query id for the queries of a stage's block that were scored."""
    return {one: ap for one, ap in block.get("per_query_ap", {}).items() if ap is not None}


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
