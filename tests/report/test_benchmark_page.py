"""The page of benchmarks: records become settings and contenders, machines stand beside."""

from __future__ import annotations

import json

import pytest

from delf_tf.checks import InputError
from delf_tf.report import benchmark_page
from delf_tf.report.benchmark_page import Figure, figures


def test_labels_come_before_the_contender_and_the_first_is_the_measure():
    rows = [
        {"dim": 40, "stage": "mutual", "contender": "ours", "ms": 2.0, "recall": 0.5},
        {"dim": 40, "stage": "mutual", "contender": "peer", "ms": 5.0, "worst_false": 3},
        {"dim": 8, "stage": "mutual", "contender": "peer", "ms": "wrong"},
    ]
    assert figures({"rows": rows, "num_pairs": 4}) == {
        ("dim 40, mutual", "ours"): Figure(2.0, 1.0, "recall 0.500"),
        ("dim 40, mutual", "peer"): Figure(5.0, 2.5, ""),
        ("dim 8, mutual", "peer"): Figure(None, None, ""),
    }


def test_nested_settings_plain_figures_and_stages():
    rows = [{"contender": "original", "ms_per_image": 4.0, "cosine": 1.0}]
    network = {"gflop": 3.0, "rows": [{"precision": "float32", "ms": 9.0}]}
    found = figures({"settings": [{"name": "global", "rows": rows}], "network": network})
    assert found == {
        ("global", "original"): Figure(4.0, 1.0, "cosine 1.000"),
        ("network", "float32"): Figure(9.0, 1.0, ""),
    }
    found = figures({"query_ms": 3.0, "faiss_ms": 6.0, "recall": 0.8})
    assert found == {
        ("", "query"): Figure(3.0, 1, "recall 0.800"),
        ("", "faiss"): Figure(6.0, 2, ""),
    }
    stages = [{"num_images": 10, "stage": "write", "seconds": 9.0, "cpu_seconds": 0.5}]
    found = figures({"rows": stages, "growth": [{"stage": "write", "seconds": 1.0}]})
    assert found == {("10, write", ""): Figure(500.0, 1.0, "")}


def test_machines_stand_beside_each_other(tmp_path):
    here = {"local": {"query_ms": 3.0, "faiss_ms": 6.0, "machine": {"processor": "<fast>"}}}
    there = {"local": {"query_ms": 5.0, "machine": {"versions": {"faiss-cpu": "1.2"}}}}
    runs = [{"benchmark": "local", "seconds": 1.0, "status": "done"}]
    path = benchmark_page.write(tmp_path / "a.html", {"here": here, "there": there}, runs)
    page = path.read_text("utf-8")
    assert "&lt;fast&gt;" in page and "faiss-cpu" in page and "there: ms" in page
    cells = "<td>query</td><td>3.00</td><td>1.00</td><td>5.00</td><td>1.00</td>"
    assert cells in page
    assert "<td>faiss</td><td>6.00</td><td>2.00</td><td></td><td></td>" in page


@pytest.mark.parametrize("content", [[], {}, {"machine": 3}])
def test_what_is_no_result_is_refused(tmp_path, content):
    with pytest.raises(InputError, match="must hold results"):
        benchmark_page.read_results(tmp_path, ["local"])
    (tmp_path / "local.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="must be what"):
        benchmark_page.read_results(tmp_path, ["local"])
