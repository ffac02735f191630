"""Equal scores stand in the order of their rows, whatever processor adds them up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from delf_tf.retrieval.ordering import TOLERANCE, descending, first_largest
from delf_tf.retrieval.vectors.whitening import Whitening, fit_pca
from delf_tf.retrieval.words.word_assignment import WordAssigner
from tests.retrieval.orders import all_orders, copies

# Instructions that OpenBLAS's kernels for a processor use.
CORETYPES = {
    "Nehalem": {"sse4_2"},
    "Haswell": {"avx2", "fma"},
    "Zen": {"avx2", "fma"},
    "SkylakeX": {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"},
}


def _processor_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return set(" ".join(line for line in lines if line.startswith("flags")).split())


@pytest.fixture(scope="module")
def expected():
    return json.loads(json.dumps(all_orders()))


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("coretype", CORETYPES)
def test_every_processor_gives_the_same_orders(expected, repository, coretype, num_threads):
    missing = CORETYPES[coretype] - _processor_flags()
    if missing:
        pytest.skip(f"this processor has no {', '.join(sorted(missing))}")
    environment = {
        **os.environ,
        "OPENBLAS_CORETYPE": coretype,
        "OPENBLAS_NUM_THREADS": str(num_threads),
        "OMP_NUM_THREADS": str(num_threads),
    }
    finished = subprocess.run(
        [sys.executable, "-m", "tests.retrieval.orders"],
        env=environment,
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert found["kernels"], "NumPy's BLAS is no OpenBLAS"
    # From 0.3.31 on, OpenBLAS has Haswell's kernels for Zen as well.
    assert set(found["kernels"]) <= {coretype, "Haswell" if coretype == "Zen" else coretype}
    different = [name for name, order in expected.items() if found["orders"][name] != order]
    assert not different


def test_equal_vectors_come_by_row(expected):
    vectors = copies()
    same = (vectors[:, None] == vectors).all(axis=2)
    for name in ("exact raw plain", "Flat pca refined", "SQ8 pca both"):
        for query, row in enumerate(expected[name]):
            own = [one for one in row if same[query, one]]
            assert own == np.flatnonzero(same[query]).tolist(), name


def test_descending():
    scores = np.array([0.5, 0.5 + TOLERANCE / 2, 0.7, 0.5 + TOLERANCE, 0.3, 0.5 - 4 * TOLERANCE])
    assert descending(scores).tolist() == [2, 0, 1, 3, 5, 4]
    assert descending(np.zeros(0)).tolist() == []


def test_first_largest():
    scores = np.array([[0.1, 0.5, 0.5 + TOLERANCE / 2], [0.1, 0.2, 0.2 + 3 * TOLERANCE]])
    assert first_largest(scores).tolist() == [1, 2]


def test_equal_vectors_are_whitened_equally():
    rows = np.repeat(copies()[:1], 37, axis=0)
    rng = np.random.default_rng(0)
    whitening = Whitening(np.full(93, 0.01), rng.integers(-9, 10, (50, 93)) / 30, "pca")
    whitened = whitening.apply(rows)
    np.testing.assert_array_equal(whitened, np.repeat(whitening.apply(rows[:1]), 37, axis=0))


def test_the_sign_of_an_axis_is_that_of_its_first_largest_part():
    # Two points: the axis is (±1, ∓1, ±1, ∓1) / 2, whose parts are equal but for rounding.
    for direction in (1, -1):
        points = direction * np.array([[1, -1, 1, -1], [-1, 1, -1, 1]]) / 2
        found = fit_pca(points, 1, whiten=False).projection[0]
        np.testing.assert_allclose(found, [0.5, -0.5, 0.5, -0.5], atol=1e-7)


def test_the_first_of_equally_near_words():
    rng = np.random.default_rng(0)
    centroids = np.repeat(rng.integers(-9, 10, (40, 61)) / 9, 3, axis=0).astype(np.float32)
    rows = rng.integers(-9, 10, (50, 61)).astype(np.float32) / 9
    found = WordAssigner(centroids).nearest(rows, 7)
    exact = np.square(rows[:, None].astype(np.float64) - centroids).sum(axis=2).round(9)
    np.testing.assert_array_equal(found, np.argsort(exact, axis=1, kind="stable")[:, :7])
