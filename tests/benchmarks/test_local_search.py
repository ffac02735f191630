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
    # 32 bits of a code and of a number; up to four lists end with a block that is not full.
    assert 2000 * 8 + 2 * 5 * 8 <= report["index_mb"] * 1e6 <= 2000 * 8 + 4 * 63 * 4 + 2 * 5 * 8


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
