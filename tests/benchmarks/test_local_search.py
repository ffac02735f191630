"""The benchmarks run at any size and report what they say."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.benchmarks.local_search import run, run_local
from delf_tf.checks import InputError
from delf_tf.retrieval.words.asmk import AsmkIndex


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


def test_a_shared_database_is_searched_with_other_parameters():
    random = np.random.default_rng(0)
    words, rows = random.standard_normal((8, 4)), random.standard_normal((20, 4))
    index, other, alone = AsmkIndex(words), AsmkIndex(words, alpha=1), AsmkIndex(words, alpha=1)
    index.add("a", rows)
    other.share_database(index)
    index.add("b", rows[:3])
    alone.add_all([("a", rows), ("b", rows[:3])])
    np.testing.assert_array_equal(other.scores(rows), alone.scores(rows))
    with pytest.raises(InputError, match="must be empty"):
        other.share_database(index)
    with pytest.raises(InputError, match="one codebook and kind"):
        AsmkIndex(words + 1).share_database(index)
