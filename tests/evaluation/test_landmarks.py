"""GLDv2's metrics against hand-made numbers and the original's outputs, ties and gaps included."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.evaluation.landmarks import recognition_metrics, retrieval_metrics

SOLUTION = {
    "a": ((1, 2), "Public"),
    "b": ((3,), "Public"),
    "c": ((), "Public"),
    "d": ((4,), "Private"),
    "e": ((), "Ignored"),
}


def test_recognition_by_hand():
    # By confidence: c wrong, a right (1/2), b wrong. Two images show a landmark.
    predictions = {"a": (2, 0.5), "b": (9, 0.1), "c": (1, 0.9)}
    metrics = recognition_metrics(predictions, SOLUTION, "Public")
    assert metrics.gap == pytest.approx(0.5 / 2)
    assert metrics.gap_landmarks_only == pytest.approx(1 / 2)
    assert metrics.top1 == 0.5
    assert (metrics.num_images, metrics.num_landmark_images, metrics.num_predictions) == (3, 2, 3)


def test_recognition_orders_ties_by_image():
    # Equal confidence: a (wrong) before b (right), whatever order they are given in.
    for order in ("ab", "ba"):
        answers = {"a": (9, 0.5), "b": (3, 0.5)}
        predictions = {image: answers[image] for image in order}
        assert recognition_metrics(predictions, SOLUTION, "Public").gap == pytest.approx(0.25)


def test_recognition_without_usage_takes_all_but_the_ignored():
    metrics = recognition_metrics({"d": (4, 0.3), "e": (4, 0.9)}, SOLUTION)
    assert metrics.num_images == 4
    assert metrics.num_predictions == 1
    assert metrics.gap == pytest.approx(1 / 3)


def test_recognition_of_nothing():
    metrics = recognition_metrics({}, SOLUTION, "Public")
    assert (metrics.gap, metrics.top1, metrics.num_predictions) == (0, 0, 0)
    nothing = recognition_metrics({"c": (1, 1.0)}, {"c": ((), "Public")}, "Public")
    assert math.isnan(nothing.gap)
    assert math.isnan(nothing.top1)


def test_recognition_refuses_what_it_cannot_score():
    with pytest.raises(InputError, match="another test set"):
        recognition_metrics({"z": (1, 0.5)}, SOLUTION)
    with pytest.raises(InputError, match="finite"):
        recognition_metrics({"a": (1, math.nan)}, SOLUTION)
    with pytest.raises(InputError, match="Did you mean 'Public'"):
        recognition_metrics({}, SOLUTION, "public")


def test_retrieval_by_hand():
    solution = {"q": (("x", "y"), "Public"), "r": (("z",), "Public"), "s": (("x",), "Private")}
    # x right at 1 (1/1), x again counts no more, y right at 4 (2/4): AP = 1.5 / 2; r: none.
    metrics = retrieval_metrics({"q": ("x", "x", "w", "y")}, solution, "Public")
    assert metrics.mAP100 == pytest.approx(0.75 / 2)
    np.testing.assert_allclose(metrics.mean_precisions[:4], [1 / 2, 1 / 4, 1 / 6, 1 / 4])
    assert metrics.mean_precisions[99] == pytest.approx(0.01)
    assert metrics.mean_position == (1 + 101) / 2
    assert (metrics.num_queries, metrics.num_predictions) == (2, 1)


def test_retrieval_counts_a_hundred_results_and_positives():
    solution = {"q": (tuple(f"i{n}" for n in range(200)), "Public")}
    best = retrieval_metrics({"q": [f"i{n}" for n in range(100)]}, solution)
    assert best.mAP100 == pytest.approx(1)
    late = retrieval_metrics({"q": ["no"] * 100 + ["i0"]}, solution)
    assert late.mAP100 == 0
    assert late.median_position == 101


def test_retrieval_of_nothing():
    metrics = retrieval_metrics({}, {"q": ((), "Ignored")})
    assert math.isnan(metrics.mAP100)
    assert np.isnan(metrics.mean_precisions).all()
    assert retrieval_metrics({}, {"q": ((), "Public")}).mAP100 == 0
    with pytest.raises(InputError, match="another test set"):
        retrieval_metrics({"z": ()}, {"q": ((), "Public")})


def _rows(path):
    with path.open(newline="") as file:
        yield from list(csv.reader(file))[1:]


@pytest.mark.parametrize("usage", ["Public", "Private"])
def test_the_original_recognition_figures(golden_dir, usage):
    folder = golden_dir / "delf/gldv2"
    solution = {
        row[0]: (tuple(int(word) for word in row[1].split()), row[2])
        for row in _rows(folder / "recognition_solution.csv")
    }
    predictions = {}
    for row in _rows(folder / "recognition_predictions.csv"):
        if row and row[1]:
            predictions[row[0]] = (int(row[1].split()[0]), float(row[1].split()[1]))
    expected = json.loads((folder / "expected.json").read_text())["recognition"][usage.lower()]
    metrics = recognition_metrics(predictions, solution, usage)
    assert metrics.gap == pytest.approx(expected["GAP"], abs=1e-12)
    assert metrics.gap_landmarks_only == pytest.approx(
        expected["GAP_ignore_non_landmark"], abs=1e-12
    )
    assert metrics.top1 == pytest.approx(expected["top1"], abs=1e-12)
    assert metrics.num_images == expected["n_solution"]
    assert metrics.num_landmark_images == expected["n_positive"]
    assert metrics.num_predictions == expected["n_predictions"]


@pytest.mark.parametrize("usage", ["Public", "Private"])
def test_the_original_retrieval_figures(golden_dir, usage):
    folder = golden_dir / "delf/gldv2"
    solution = {
        row[0]: (tuple(row[1].split()), row[2]) for row in _rows(folder / "retrieval_solution.csv")
    }
    predictions = {
        row[0]: tuple(row[1].split())
        for row in _rows(folder / "retrieval_predictions.csv")
        if row and row[1]
    }
    expected = json.loads((folder / "expected.json").read_text())["retrieval"][usage.lower()]
    metrics = retrieval_metrics(predictions, solution, usage)
    assert metrics.mAP100 == pytest.approx(expected["mAP100"], abs=1e-12)
    np.testing.assert_allclose(metrics.mean_precisions, expected["mean_precisions"], atol=1e-12)
    assert metrics.mean_position == pytest.approx(expected["mean_position"])
    assert metrics.median_position == expected["median_position"]
    assert metrics.num_queries == expected["n_solution"]
    assert metrics.num_predictions == expected["n_predictions"]
