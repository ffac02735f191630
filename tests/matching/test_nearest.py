"""Putative matches against a direct computation, and hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from delf_tf.checks import InputError
from delf_tf.matching import match
from delf_tf.matching.kernels import neighbours
from delf_tf.types import LocalFeatures


def _direct(query, database, max_distance=np.inf, max_ratio=None, mutual=True):
    query, database = query.astype(np.float64), database.astype(np.float64)
    distances = np.linalg.norm(query[:, None] - database[None], axis=2)
    rows = []
    for i, row in enumerate(distances):
        j = int(row.argmin())
        runner_up = np.partition(row, 1)[1] if len(row) > 1 else np.inf
        keep = row[j] < max_distance and (max_ratio is None or row[j] < max_ratio * runner_up)
        if keep and (not mutual or distances[:, j].argmin() == i):
            rows.append((i, j))
    return np.array(rows, np.int64).reshape(-1, 2)


def _rows(seed, num, dim, unit=True):
    rows = np.random.default_rng(seed).standard_normal((num, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if unit else rows


@pytest.mark.parametrize("mutual", [True, False])
@pytest.mark.parametrize(
    "limits", [{}, {"max_distance": 1.1}, {"max_ratio": 0.97}, {"max_distance": 1, "max_ratio": 1}]
)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (70, 33, 8), (129, 300, 40)])
@pytest.mark.parametrize("unit", [True, False])
def test_agrees_with_all_distances(sizes, limits, mutual, unit):
    num, others, dim = sizes
    query, database = _rows(0, num, dim, unit), _rows(1, others, dim, unit)
    found = match(query, database, mutual=mutual, **limits)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, _direct(query, database, mutual=mutual, **limits))


def test_hand_computed():
    query = np.array([[0, 0], [10, 0], [4, 0]])
    database = np.array([[1, 0], [3, 0], [9.5, 0], [100, 0]])
    assert match(query, database).tolist() == [[0, 0], [1, 2], [2, 1]]
    # 0 -> 0 at 1 (next 3), 1 -> 2 at 0.5, 2 -> 1 at 1 (next 3).
    assert match(query, database, max_distance=1).tolist() == [[1, 2]]
    assert match(query, database, max_ratio=0.3).tolist() == [[1, 2]]
    assert match(query, database[:1], mutual=False).tolist() == [[0, 0], [1, 0], [2, 0]]
    assert match(query, database[:1]).tolist() == [[0, 0]]


def test_far_from_the_origin_keeps_its_digits():
    offset = 1000.0
    query, database = _rows(0, 200, 16) + offset, _rows(1, 200, 16) + offset
    np.testing.assert_array_equal(match(query, database), _direct(query, database))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int8, np.int64])
def test_dtypes(dtype):
    integers = np.random.default_rng(0).integers(0, 100, (2, 60, 24))
    query, database = integers.astype(dtype)
    np.testing.assert_array_equal(match(query, database), _direct(query, database))


def test_read_only_descriptors_are_not_compiled_for_anew():
    rows, others = _rows(2, 20, 8), _rows(3, 30, 8)
    found = match(rows, others, num_threads=1)
    compiled = (neighbours.offset_of, neighbours.pack_panels, neighbours.scan, neighbours.select)
    before = [len(function.signatures) for function in compiled]
    for one in (rows, others):
        one.flags.writeable = False
    np.testing.assert_array_equal(match(rows, others, num_threads=1), found)
    assert [len(function.signatures) for function in compiled] == before


def test_takes_local_features():
    rows = _rows(0, 5, 4)
    features = LocalFeatures(np.zeros((5, 2)), rows.astype(np.float16), np.ones(5), np.ones(5))
    assert match(features, features).tolist() == [[i, i] for i in range(5)]


def test_equal_rows_match_once_and_lowest():
    rows = np.ones((50, 3), np.float32)
    assert match(rows, rows).tolist() == [[0, 0]]
    assert match(rows, rows, mutual=False)[:, 1].tolist() == [0] * 50
    assert match(rows, rows, max_ratio=0.9).shape == (0, 2)


@pytest.mark.parametrize("shapes", [((0, 8), (0, 8)), ((0, 8), (5, 8)), ((5, 8), (0, 8))])
def test_empty(shapes):
    query, database = (np.zeros(shape, np.float32) for shape in shapes)
    for limits in ({}, {"max_ratio": 0.8, "mutual": False}):
        found = match(query, database, **limits)
        assert found.shape == (0, 2)
        assert found.dtype == np.int64


def test_threads_change_nothing():
    query, database = _rows(0, 1000, 40), _rows(1, 900, 40)
    query[500:] = query[:500]
    one = match(query, database, num_threads=1, max_ratio=0.99)
    for num_threads in (2, 3, 7):
        np.testing.assert_array_equal(
            match(query, database, num_threads=num_threads, max_ratio=0.99), one
        )


def test_more_panels_than_fit_the_cache():
    query, database = _rows(0, 40, 64), _rows(1, 6000, 64)
    np.testing.assert_array_equal(match(query, database), _direct(query, database))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"query": np.zeros((3, 4)), "database": np.zeros((3, 5))}, "width"),
        ({"query": np.zeros((3, 4), np.uint8), "database": np.zeros((3, 4), np.float32)}, "codes"),
        ({"query": np.full((3, 4), np.nan), "database": np.zeros((3, 4))}, "finite"),
        ({"query": np.zeros(4), "database": np.zeros((3, 4))}, "shape"),
        ({"query": np.array([["a"]]), "database": np.zeros((3, 4))}, "numeric"),
        ({"max_distance": 0}, "max_distance"),
        ({"max_ratio": -1}, "max_ratio"),
        ({"num_threads": 0}, "num_threads"),
    ],
)
def test_bad_input_is_named(arguments, word):
    arguments = {"query": np.zeros((3, 4)), "database": np.zeros((3, 4)), **arguments}
    with pytest.raises(InputError, match=word):
        match(**arguments)


_ROWS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 40), st.just(3)),
    elements=st.integers(-3, 3).map(float),
)


@settings(max_examples=60, deadline=None)
@given(_ROWS, _ROWS)
def test_mutual_matches_are_one_to_one_and_symmetric(query, database):
    found = match(query, database)
    assert len(set(found[:, 0])) == len(set(found[:, 1])) == len(found)
    # Small whole numbers: every product is exact, so ties are true ties.
    np.testing.assert_array_equal(found, _direct(query, database) if len(database) else found)


@pytest.mark.parametrize("size", [1e-30, 1e15, 1e19, 1e38])
def test_extreme_sizes_never_point_outside(size):
    query, database = (_rows(seed, 50, 8) * np.float32(size) for seed in (0, 1))
    for limits in ({}, {"max_ratio": 0.9}, {"mutual": False}):
        found = match(query, database, **limits)
        assert ((found >= 0) & (found < 50)).all()
