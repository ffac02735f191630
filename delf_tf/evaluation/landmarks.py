"""The metrics of the Google Landmarks Dataset v2: recognition (GAP, top-1) and retrieval (mAP@100).

Weyand et al., "Google Landmarks Dataset v2", CVPR 2020; GAP is the µAP of Perronnin et al., "A
Family of Contextual Measures of Similarity between Distributions with Application to Image
Retrieval", CVPR 2009. A solution maps an image to (its landmarks or its database images, its
usage), a usage being "Public", "Private" or "Ignored".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from delf_tf.checks import require, require_choice

MAX_RESULTS = 100
USAGES = ("Public", "Private")
RecognitionSolution = Mapping[str, tuple[Sequence[int], str]]
RetrievalSolution = Mapping[str, tuple[Sequence[str], str]]
RecognitionPredictions = Mapping[str, tuple[int, float]]
RetrievalPredictions = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class RecognitionMetrics:
    """How well landmarks are named; figures lie in 0..1, NaN where no image shows a landmark.

    Attributes:
      gap: global average precision; a prediction for an image without a landmark is wrong.
      gap_landmarks_only: the same without the predictions for images without a landmark.
      top1: share of the images with a landmark whose prediction is right.
      num_images: images of the solution.
      num_landmark_images: those that show a landmark.
      num_predictions: predictions for them.
    """

    gap: float
    gap_landmarks_only: float
    top1: float
    num_images: int
    num_landmark_images: int
    num_predictions: int


@dataclasses.dataclass(frozen=True, eq=False)
class RetrievalMetrics:
    """How well database images are found; NaN where the solution is empty.

    Attributes:
      mAP100: mean average precision over the first 100 results.
      mean_precisions: float64 [100], mean precision at 1..100; short lists are divided by k too.
      mean_position: mean over queries of the 1-based position of the first right image, 101 for
        none.
      median_position: its median.
      num_queries: queries of the solution; one without a prediction scores 0.
      num_predictions: queries that have one.
    """

    mAP100: float  # noqa: N815
    mean_precisions: np.ndarray
    mean_position: float
    median_position: float
    num_queries: int
    num_predictions: int


def recognition_metrics(
    predictions: RecognitionPredictions, solution: RecognitionSolution, usage: str | None = None
) -> RecognitionMetrics:
    """Scores landmark predictions.

    Args:
      predictions: (landmark, confidence) by image; images may be missing.
      solution: (landmarks, usage) by image; no landmarks means that it shows none.
      usage: score the images of this usage only; None takes all but the ignored.

    Raises:
      InputError: a prediction for an image that the solution does not know, a confidence that is
        not finite, an unknown usage.
    """
    truth = {image: frozenset(map(int, labels)) for image, labels in _of(solution, usage).items()}
    _check_known(predictions, solution)
    infinite = [image for image, (_, score) in predictions.items() if not math.isfinite(score)]
    require(not infinite, "Confidences must be finite.", images=infinite[:3])
    chosen = {image: one for image, one in predictions.items() if image in truth}
    landmarks_only = {image: one for image, one in chosen.items() if truth[image]}
    right = sum(int(label) in truth[image] for image, (label, _) in landmarks_only.items())
    num_landmark_images = sum(bool(labels) for labels in truth.values())
    return RecognitionMetrics(
        gap=_gap(chosen, truth, num_landmark_images),
        gap_landmarks_only=_gap(landmarks_only, truth, num_landmark_images),
        top1=right / num_landmark_images if num_landmark_images else math.nan,
        num_images=len(truth),
        num_landmark_images=num_landmark_images,
        num_predictions=len(chosen),
    )


def retrieval_metrics(
    predictions: RetrievalPredictions, solution: RetrievalSolution, usage: str | None = None
) -> RetrievalMetrics:
    """Scores lists of database images.

    An image that a list names again keeps its position but counts no more.

    Args:
      predictions: database ids by query, best first; only the first 100 count, queries may be
        missing.
      solution: (the right database ids, usage) by query.
      usage: score the queries of this usage only; None takes all but the ignored.

    Raises:
      InputError: a prediction for a query that the solution does not know, an unknown usage.
    """
    truth = {query: frozenset(ids) for query, ids in _of(solution, usage).items()}
    _check_known(predictions, solution)
    right = np.zeros((len(truth), MAX_RESULTS), bool)
    for row, (query, positives) in enumerate(truth.items()):
        seen: set[str] = set()
        for position, one in enumerate(predictions.get(query, ())[:MAX_RESULTS]):
            right[row, position] = one in positives and one not in seen
            seen.add(one)
    counts = np.cumsum(right, axis=1)
    precisions = counts / np.arange(1, MAX_RESULTS + 1)
    most = np.array([min(len(positives), MAX_RESULTS) for positives in truth.values()], np.float64)
    ap = (precisions * right).sum(axis=1) / np.maximum(most, 1)
    first = np.where(right.any(axis=1), right.argmax(axis=1) + 1, MAX_RESULTS + 1)
    empty = not truth
    return RetrievalMetrics(
        mAP100=math.nan if empty else float(ap.mean()),
        mean_precisions=np.full(MAX_RESULTS, np.nan) if empty else precisions.mean(axis=0),
        mean_position=math.nan if empty else float(first.mean()),
        median_position=math.nan if empty else float(np.median(first)),
        num_queries=len(truth),
        num_predictions=sum(query in predictions for query in truth),
    )


def _gap(
    predictions: RecognitionPredictions, truth: Mapping[str, frozenset[int]], num_positives: int
) -> float:
    """Returns Σ_i precision(i) · right(i) / num_positives, predictions by falling confidence."""
    if not num_positives:
        return math.nan
    ordered = sorted((-score, image, int(label)) for image, (label, score) in predictions.items())
    right = np.array([label in truth[image] for _, image, label in ordered], bool)
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float(precision[right].sum() / num_positives)


def _of(solution: Mapping[str, tuple[Sequence, str]], usage: str | None) -> dict[str, Sequence]:
    if usage is not None:
        require_choice("usage", usage, USAGES)
    wanted = USAGES if usage is None else (usage,)
    return {one: answers for one, (answers, found) in solution.items() if found in wanted}


def _check_known(predictions: Mapping, solution: Mapping) -> None:
    unknown = [one for one in predictions if one not in solution]
    require(
        not unknown,
        "Predictions must be for images of the solution.",
        hint="Are they of another test set?",
        unknown=unknown[:3],
    )
