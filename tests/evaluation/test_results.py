"""Metrics files: exact form, NaN, conditions, the original's text."""

from __future__ import annotations

import json

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.evaluation.metrics import evaluate_ranking
from delf_tf.evaluation.results import (
    Conditions,
    json_ready,
    load_results,
    ranking_results,
    results_lines,
    revisited_results,
    save_results,
)
from delf_tf.types import GroundTruth


@pytest.fixture
def metrics(make_ranking):
    truth = GroundTruth((np.array([0]), np.array([])), (np.array([]), np.array([])))
    return evaluate_ranking(make_ranking([[0, 1], [1, 0]]), truth)


def test_revisited_form(tmp_path, metrics):
    conditions = Conditions(queries_cropped=True, blind_reranking=False)
    results = revisited_results({"easy": metrics, "hard": metrics}, conditions)
    path = save_results(tmp_path / "metrics.json", results)
    loaded = json.loads(path.read_text())
    expected = {"mAP": 1, "mP": {"1": 1, "5": 1, "10": 1}, "per_query_ap": [1, None]}
    assert loaded["protocols"] == {"easy": expected, "hard": expected}
    assert loaded["queries_cropped"] is True
    assert loaded["blind_reranking"] is False
    assert load_results(path) == loaded


def test_ranking_form(metrics):
    results = ranking_results(metrics, Conditions(), places=["a", "b"])
    assert results["mAP"] == results["mAP_by_place"] == results["P@1"] == results["R@1"] == 1
    assert results["mAP_interval"] == [1, 1]
    assert results["num_queries"] == 1
    assert results["per_query_ap"] == {"q0": 1, "q1": None}
    assert results["queries_cropped"] is None


def test_lines_name_the_conditions(metrics):
    (line,) = results_lines({"hard": metrics}, Conditions(False, True))
    assert line.startswith("hard: mAP 100.00, mP@1 100.00")
    assert line.endswith("(1 queries, queries NOT cropped, re-ranked blind)")
    assert str(Conditions(True)) == "queries cropped, not re-ranked"


def test_json_ready():
    assert json_ready({1: np.float32(0.5), "n": (np.nan, np.int64(3), True, None)}) == {
        "1": 0.5,
        "n": [None, 3, True, None],
    }
    for bad in (np.inf, object(), {"a": b"x"}):
        with pytest.raises(InputError):
            json_ready(bad)


def test_files_that_are_no_results(tmp_path):
    with pytest.raises(InputError, match="must exist"):
        load_results(tmp_path / "none.json")
    for content in ("[1]", "{", "[" * 100000):
        (tmp_path / "m.json").write_text(content)
        with pytest.raises(InputError, match="must be"):
            load_results(tmp_path / "m.json")
