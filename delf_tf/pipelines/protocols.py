"""Scores a ranking by the protocol of its ground truth, or by a named one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from delf_tf.artifacts import StrPath
from delf_tf.checks import UsageError, require
from delf_tf.datasets import folder, gldv2, revisitop, tables
from delf_tf.evaluation import landmarks, metrics, results, voting
from delf_tf.evaluation.results import LABELS
from delf_tf.retrieval import rankings
from delf_tf.types import GroundTruth, Ranking

_SCORED_USAGES = ("Public", "Private")

# A protocol gives figures for JSON, and the same as printable lines.
Figures = dict[str, Any]


class Task(NamedTuple):
    """What is to be scored.

    Attributes:
      truth_path: the ground truth.
      ranking: None if `predictions_path` is given.
      conditions: stand beside the figures.
      predictions_path: a submission of Google Landmarks v2.
      train_csv: the landmarks of database images, for recognition from a ranking.
      num_voters: of recognition from a ranking.
    """

    truth_path: str
    ranking: Ranking | None
    conditions: results.Conditions
    predictions_path: str = ""
    train_csv: str = ""
    num_voters: int = 5


def guess(truth_path: str) -> str:
    """Returns the protocol that a ground truth's extension and columns mean."""
    if Path(truth_path).suffix.lower() != ".csv":
        return "revisited"
    return LABELS if _solution_column(truth_path) is None else "gldv2"


def with_ground_truth(
    ranking: Ranking, truth_path: StrPath
) -> dict[str, tuple[Ranking, GroundTruth]]:
    """Returns by protocol a ranking, its rows in the ground truth's order, and that ground truth.

    Raises:
      InputError: a ground truth that cannot be read, or of other images.
    """
    if Path(truth_path).suffix.lower() == ".csv":
        labels = folder.read_labels(truth_path)
        truth = folder.ground_truth(
            ranking.query_ids, ranking.database_ids, labels, ranking.left_out
        )
        return {LABELS: (ranking, truth)}
    benchmark = revisitop.read_ground_truth(truth_path)
    known = set(benchmark.database_ids)
    extra = [one for one in ranking.database_ids if one not in known]
    require(
        len(extra) < len(ranking.database_ids),
        "The ranking must be of the ground truth's images.",
        hint="Ids are file names without extension.",
        ranking=ranking.database_ids[:2],
        ground_truth=benchmark.database_ids[:2],
    )
    benchmark = benchmark.with_distractors(extra)
    ranking = rankings.aligned(ranking, benchmark.query_ids, benchmark.database_ids)
    return {name: (ranking, benchmark.ground_truth(name)) for name in revisitop.PROTOCOLS}


def ranking_metrics(ranking: Ranking, truth_path: StrPath) -> dict[str, metrics.RankingMetrics]:
    """Returns a ranking's metrics by protocol: the revisited sets' three, or "labels".

    Raises:
      InputError: see `with_ground_truth`.
    """
    return {
        name: metrics.evaluate_ranking(found, truth)
        for name, (found, truth) in with_ground_truth(ranking, truth_path).items()
    }


def _revisited(task: Task) -> tuple[Figures, list[str]]:
    by_protocol = ranking_metrics(_ranking(task), task.truth_path)
    lines = results.results_lines(by_protocol, task.conditions)
    return results.revisited_results(by_protocol, task.conditions), lines


def _labels(task: Task) -> tuple[Figures, list[str]]:
    ranking = _ranking(task)
    by_protocol = ranking_metrics(ranking, task.truth_path)
    places = folder.places(ranking.query_ids, folder.read_labels(task.truth_path))
    scored = results.ranking_results(by_protocol[LABELS], task.conditions, places=places)
    return scored, results.results_lines(by_protocol, task.conditions)


def _recall(task: Task) -> tuple[Figures, list[str]]:
    if Path(task.truth_path).suffix.lower() != ".csv":
        raise UsageError("--ground_truth must be labels (.csv) for this protocol.")
    recall = metrics.recall_at_k(*with_ground_truth(_ranking(task), task.truth_path)[LABELS])
    line = ", ".join(f"R@{k} {100 * value:.2f}" for k, value in recall.items())
    figures = {f"R@{k}": value for k, value in recall.items()}
    return {**figures, **task.conditions.__dict__}, [f"recall: {line} ({task.conditions})"]


def _gldv2(task: Task) -> tuple[Figures, list[str]]:
    by_usage: dict[str, Any]
    if _solution_column(task.truth_path) == "landmarks":
        solution = gldv2.read_recognition_solution(task.truth_path)
        predicted = recognition_predictions(task, solution)
        by_usage = {
            usage: landmarks.recognition_metrics(predicted, solution, usage)
            for usage in _SCORED_USAGES
        }
        lines = [
            f"{usage}: GAP {100 * one.gap:.2f}, of landmark images alone "
            f"{100 * one.gap_landmarks_only:.2f}, top 1 {100 * one.top1:.2f} "
            f"({one.num_images} images)"
            for usage, one in by_usage.items()
        ]
    else:
        solution = gldv2.read_retrieval_solution(task.truth_path)
        retrieved = retrieval_predictions(task, solution)
        by_usage = {
            usage: landmarks.retrieval_metrics(retrieved, solution, usage)
            for usage in _SCORED_USAGES
        }
        lines = [
            f"{usage}: mAP@100 {100 * one.mAP100:.2f} ({one.num_queries} queries)"
            for usage, one in by_usage.items()
        ]
    return results.json_ready({**by_usage, **task.conditions.__dict__}), lines


def retrieval_predictions(task: Task, solution: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Returns the index images of each query of a solution: a submission's, or the ranking's."""
    if task.predictions_path:
        return gldv2.read_retrieval_predictions(task.predictions_path, solution)
    ranking = _ranking(task)
    names = [_stem(one) for one in ranking.database_ids]
    return {
        query: tuple(names[index] for index in row[: gldv2.MAX_RETRIEVED] if index >= 0)
        for query, row in zip(map(_stem, ranking.query_ids), ranking.indices)
        if solution.get(query, ((), "Ignored"))[1] != "Ignored"
    }


def recognition_predictions(
    task: Task, solution: Mapping[str, Any]
) -> dict[str, tuple[int, float]]:
    """Returns each test image's landmark: a submission's, or what its nearest images vote for."""
    if task.predictions_path:
        return gldv2.read_recognition_predictions(task.predictions_path, solution)
    if not task.train_csv:
        raise UsageError("--train_csv must name the landmarks of the ranking's database images.")
    known = dict(gldv2.read_train(task.train_csv))
    ranking = _ranking(task)
    labels = {one: known.get(_stem(one), voting.NON_LANDMARK) for one in ranking.database_ids}
    answers = voting.recognize(ranking, labels, task.num_voters)
    return {
        _stem(query): answer
        for query, answer in answers.items()
        if solution.get(_stem(query), ((), "Ignored"))[1] != "Ignored"
    }


PROTOCOLS: dict[str, Callable[[Task], tuple[Figures, list[str]]]] = {
    "revisited": _revisited,
    LABELS: _labels,
    "gldv2": _gldv2,
    "recall": _recall,
}


def _ranking(task: Task) -> Ranking:
    if task.ranking is None:
        raise UsageError("--ranking must be given.")
    return task.ranking


def _stem(one: str) -> str:
    return PurePosixPath(one).stem


def _solution_column(truth_path: str) -> str | None:
    """Returns what a Google Landmarks v2 solution lists; None if the file is none."""
    columns = tables.read_header(truth_path)
    if "Usage" not in columns:
        return None
    return "landmarks" if "landmarks" in columns else "images"
