"""The benchmark of indexes, small."""

from __future__ import annotations

import json

import numpy as np
import pytest

from delf_tf.benchmarks.vector_search import clustered_vectors, run
from delf_tf.checks import InputError


def test_synthetic_vectors_cluster():
    (first,) = clustered_vectors(300, 16, num_landmarks=10)
    (again,) = clustered_vectors(300, 16, num_landmarks=10)
    (other,) = clustered_vectors(300, 16, num_landmarks=10, seed=1)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)
    # Another seed's views have near neighbours among the first's: they show the same landmarks.
    assert np.median((other @ first.T).max(axis=1)) > 0.8
    assert list(clustered_vectors(0, 16, num_landmarks=1)) == []


def test_the_table():
    result = run(
        num_images=1500,
        dim=16,
        num_queries=40,
        types=("numpy", "SQ8", "compressed"),
        repeats=2,
        num_probes=16,
    )
    assert [row["type"] for row in result["indexes"]] == [
        *("exact", "numpy", "SQ8", "IVF64,PQ4x4fs"),
    ]
    recalls = [row["recall10@10"] for row in result["indexes"]]
    assert recalls[0] == 1 and recalls[1] > 0.99
    assert min(recalls) > 0.95
    assert result["indexes"][2]["megabytes"] == pytest.approx(0.024, abs=0.002)
    assert all(row["ms_per_query"] > 0 for row in result["indexes"])
    json.dumps(result)


def test_given_vectors():
    (database,) = clustered_vectors(100, 8, num_landmarks=5)
    result = run(database=database, queries=database[:3], types=(), k=1, repeats=1)
    assert (result["num_images"], result["dim"], result["num_queries"]) == (100, 8, 3)
    with pytest.raises(InputError, match="queries"):
        run(database=database)
    with pytest.raises(InputError, match="repeats"):
        run(repeats=0)
