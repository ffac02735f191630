"""Scores and costs of a run's stages: metrics.json and its table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from delf_tf.datasets import folder
from delf_tf.evaluation import metrics, results
from delf_tf.evaluation.results import SINGLE_STAGE, TWO_STAGE
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import stages
from delf_tf.pipelines.runtime import Runtime
from delf_tf.protos import experiment_pb2
from delf_tf.report import judged
from delf_tf.report.tables import Table
from delf_tf.types import ImageRef, Ranking

# Images whose extraction is timed.
_NUM_TIMED = 5
# A search that took less is run a second time, warm.
_QUICK_S = 2.0
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

# Whether global descriptors and local features are extracted.
Kinds = tuple[bool, bool]


def timed_search(search: Callable[[], Ranking]) -> tuple[Ranking, float]:
    """Returns a ranking and the seconds a query that it took: all in one batch, warm if quick."""
    ranking, seconds = timed(search)
    if seconds < _QUICK_S:
        ranking, seconds = timed(search)
    return ranking, seconds / max(1, len(ranking.query_ids))


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Returns what a function gives, and the seconds that it took."""
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def needed_kinds(message: experiment_pb2.Experiment, stage: str) -> Kinds:
    """Returns the features that a stage needs, the stage before it included.

    A single stage needs global descriptors alone; one that searches local features, these alone.
    """
    by_local = stages.by_local_features(message)
    use_global = message.extraction.use_global_features and not by_local
    return use_global, by_local or stage == TWO_STAGE


def extraction_costs(
    runtime: Runtime, refs: Sequence[ImageRef], store: FeatureStore, kinds: Mapping[str, Kinds]
) -> dict[str, dict[str, float]]:
    """Returns by stage the seconds and bytes an image that its kinds of features take.

    Images are timed from file to features, warm, the stages interleaved; medians.
    """
    size = store.bytes_per_image()
    readable = set(store.ids())
    shown = [ref for ref in refs if ref.id in readable][:: max(1, len(readable) // _NUM_TIMED)]
    seconds = _time_extraction(runtime, shown[:_NUM_TIMED], sorted(set(kinds.values())))
    return {
        stage: {
            "seconds_per_image": seconds[use_global, use_local],
            "bytes_per_image": size["global"] * use_global + size["local"] * use_local,
        }
        for stage, (use_global, use_local) in kinds.items()
    }


def score_rankings(
    rankings: Mapping[str, Ranking],
    labels: Mapping[str, str] | None,
    costs: Mapping[str, Mapping[str, float]],
    first_stage: Mapping[str, Any],
) -> tuple[dict[str, Any], judged.Rankings]:
    """Scores the stages' rankings by the protocol of the revisited benchmarks.

    Args:
      rankings: by stage, of the same queries.
      labels: place of each image; None gives the costs alone.
      costs: by stage, what is shown beside the scores.
      first_stage: the search's settings, written into the single stage's block.

    Returns:
      The content of metrics.json, one block a stage, and the rankings with their scores.
    """
    first = rankings[SINGLE_STAGE]
    truth, places = None, None
    if labels is not None:
        truth = folder.ground_truth(first.query_ids, first.database_ids, labels, first.left_out)
        places = folder.places(first.query_ids, labels)
    blocks: dict[str, Any] = {}
    shown = {}
    for stage, ranking in rankings.items():
        block, aps = {}, np.full(len(first.query_ids), np.nan)
        if truth is not None:
            scored = metrics.evaluate_ranking(ranking, truth)
            # No ground truth is looked at before the images to verify are chosen.
            conditions = results.Conditions(False, True if stage == TWO_STAGE else None)
            block = results.ranking_results(scored, conditions, places=places)
            aps = scored.per_query_ap
        blocks[stage] = {**block, **costs[stage]}
        shown[_TITLES[stage]] = judged.Judged(ranking, truth, aps)
    blocks[SINGLE_STAGE]["first_stage"] = dict(first_stage)
    return results.json_ready({**blocks, "queries_cropped": False}), shown


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


def _time_extraction(
    runtime: Runtime, refs: Sequence[ImageRef], kinds: Sequence[Kinds]
) -> dict[Kinds, float]:
    from delf_tf.extraction import engine  # noqa: PLC0415 - TensorFlow takes seconds to load

    loader = runtime.loader()
    times: dict[Kinds, list[float]] = {one: [] for one in kinds}
    for ref in refs:
        for one, values in times.items():
            extractor = runtime.extractor(use_global=one[0], use_local=one[1])
            engine.extract_image(extractor, *loader.load(ref))
            start = time.perf_counter()
            engine.extract_image(extractor, *loader.load(ref))
            values.append(time.perf_counter() - start)
    return {one: float(np.median(values)) for one, values in times.items()}


def _cell(value: float | None, key: str, form: str) -> str:
    if value is None:
        return "-"
    return form.format(value * 1e3 if key == "seconds_per_query" else value)
