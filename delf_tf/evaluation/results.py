"""Metrics as JSON: figures in 0..1, NaN as null, and beside them the conditions they hold under.

Two conditions change every figure and are easily lost: whether queries were cropped to their boxes,
and whether re-ranking was blind, that is, chose its candidates without seeing the ground truth's
junk. They are written with the figures and printed with them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf.artifacts import StrPath, read_json, write_json
from delf_tf.checks import invalid, require
from delf_tf.evaluation.metrics import RankingMetrics, mean_by_place
from delf_tf.evaluation.significance import bootstrap_interval

# Names in metrics files: of the stages, and of the one protocol of a labelled folder.
SINGLE_STAGE, TWO_STAGE = "single_stage", "two_stage"
LABELS = "labels"


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Under what figures hold.

    Attributes:
      queries_cropped: whether queries were cut to their boxes; None where there are no boxes.
      blind_reranking: whether candidates were chosen without the ground truth; None for a single
        stage.
    """

    queries_cropped: bool | None = None
    blind_reranking: bool | None = None

    def __str__(self) -> str:
        cropped = {None: "no query boxes", True: "queries cropped", False: "queries NOT cropped"}
        blind = {
            None: "not re-ranked",
            True: "re-ranked blind",
            False: "re-ranked with the ground truth's junk removed first",
        }
        return f"{cropped[self.queries_cropped]}, {blind[self.blind_reranking]}"


def revisited_results(
    metrics: Mapping[str, RankingMetrics], conditions: Conditions | None = None
) -> dict[str, Any]:
    """Returns the revisited sets' figures: {"protocols": {name: {"mAP", "mP", "per_query_ap"}}}.

    Args:
      metrics: by protocol, "easy", "medium" and "hard".
      conditions: written beside "protocols".
    """
    protocols = {
        name: {
            "mAP": one.mAP,
            "mP": {str(k): value for k, value in one.mP.items()},
            "per_query_ap": one.per_query_ap,
        }
        for name, one in metrics.items()
    }
    return json_ready({"protocols": protocols, **dataclasses.asdict(conditions or Conditions())})


def ranking_results(
    metrics: RankingMetrics,
    conditions: Conditions | None = None,
    *,
    places: Sequence[str] | None = None,
    num_samples: int = 10000,
) -> dict[str, Any]:
    """Returns one ranking's figures: mAP with its interval, P@k, R@k, AP by query, the conditions.

    Args:
      metrics: of the ranking.
      conditions: written beside the figures.
      places: a place a query, for "mAP_by_place".
      num_samples: of the bootstrap interval.
    """
    interval = bootstrap_interval(metrics.per_query_ap, num_samples=num_samples)
    figures: dict[str, Any] = {
        "mAP": metrics.mAP,
        "mAP_interval": [interval.low, interval.high],
        "confidence": interval.confidence,
        **{f"P@{k}": value for k, value in metrics.mP.items()},
        **{f"R@{k}": value for k, value in metrics.mR.items()},
        "num_queries": metrics.num_queries,
        "per_query_ap": dict(zip(metrics.query_ids, metrics.per_query_ap)),
    }
    if places is not None:
        figures["mAP_by_place"] = mean_by_place(metrics.per_query_ap, places)
    return json_ready({**figures, **dataclasses.asdict(conditions or Conditions())})


def results_lines(metrics: Mapping[str, RankingMetrics], conditions: Conditions) -> list[str]:
    """Returns one printable line a protocol, in percent, each with its conditions."""
    return [
        f"{name}: mAP {100 * one.mAP:.2f}, "
        + ", ".join(f"mP@{k} {100 * value:.2f}" for k, value in one.mP.items())
        + f" ({one.num_queries} queries, {conditions})"
        for name, one in metrics.items()
    ]


def save_results(path: StrPath, results: Mapping[str, Any]) -> Path:
    """Writes results as JSON, atomically, NaN as null; returns `path`.

    Raises:
      InputError: something that JSON cannot hold.
    """
    return write_json(path, json_ready(results))


def load_results(path: StrPath) -> dict[str, Any]:
    """Reads what `save_results` wrote.

    Raises:
      InputError: no such file, or not a JSON object.
    """
    path = Path(path)
    require(path.is_file(), "The metrics file must exist.", hint="Run evaluate first.", path=path)
    results = read_json(path, "The metrics", hint="Run evaluate again.")
    require(isinstance(results, dict), "The metrics must be a JSON object.", path=path)
    return results


def json_ready(value: Any) -> Any:
    """Returns `value` in JSON's types: arrays as lists, records as objects, NaN as null.

    Raises:
      InputError: a value that JSON has no form for, an infinite number among them.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): json_ready(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(one) for one in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return json_ready(value.tolist())
    if isinstance(value, float):
        if math.isinf(value):
            raise invalid("Results must be finite.", value=value)
        return None if math.isnan(value) else value
    if value is None or isinstance(value, (str, bool, int)):
        return value
    raise invalid("Results must be numbers, text, lists and objects.", value=value)
