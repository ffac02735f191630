"""The benchmarks run at any size and report what they say."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.benchmarks.local_search import run, run_local
from delf_tf.checks import InputError


@pytest.mark.parametrize("binary", [True, False])
def test_asmk_report(binary):
    report = run(20, 50, 100, 16, num_queries=2, binary=binary)
    assert report["words_recall"] == 1
    assert report["max_score_change"] == 0
    assert all(np.isfinite(value) and value >= 0 for value in report.values())
    assert report["query_ms"] >= report["assign_ms"] / 10


def test_local_report():
    report = run_local(10, 200, 8, "IVF4,PQ4x8", num_probes=4, num_neighbors=5, num_compared=20)
    assert 0.5 < report["recall"] <= 1
    # The same codes: faiss's own way finds the same, but for equally near ones.
    assert report["faiss_recall"] == pytest.approx(report["recall"], abs=0.02)
    assert report["over_faiss"] > 0 and report["faiss_ms"] > 0
    # 32 bits of a code and 64 of a number a feature, beside 256 code words.
    features, words = 2000 * (4 + 8), 256 * 8 * 4
    assert features + words <= report["index_mb"] * 1e6 <= features + words + 1000


@pytest.mark.parametrize("function", [run, run_local])
def test_sizes_below_one_are_refused(function):
    with pytest.raises(InputError, match="num_images must be"):
        function(0)
