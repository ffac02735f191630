"""Query expansion and database augmentation, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.retrieval.vectors.expansion import augment_database, expand_queries
from delf_tf.types import GlobalDescriptors, Ranking

AXES = np.array([[1, 0], [0.6, 0.8], [0, 1]])
QUERIES = GlobalDescriptors(["q"], np.array([[1.0, 0]]))


def _ranking(rows, num=3):
    return Ranking(["q"], [f"d{i}" for i in range(num)], rows, np.zeros(np.shape(rows)))


def _unit(vector):
    return np.asarray(vector) / np.linalg.norm(vector)


@pytest.mark.parametrize(("alpha", "weight"), [(0, 1), (1, 0.6), (3, 0.216)])
def test_expansion_by_hand(alpha, weight):
    ranking = _ranking([[0, 1, 2]])
    expanded = expand_queries(QUERIES, ranking, AXES, num_neighbors=2, alpha=alpha)
    expected = _unit([1 + 1 + weight * 0.6, weight * 0.8])
    np.testing.assert_allclose(expanded.vectors, [expected], atol=1e-6)
    assert expanded.ids == ("q",)


def test_expansion_leaves_out_missing_and_opposite_images():
    database = np.array([[1, 0], [-1, 0.0]])
    expanded = expand_queries(QUERIES, _ranking([[0, 1, -1]], 2), database, alpha=1)
    np.testing.assert_allclose(expanded.vectors, [[1, 0]])
    same = expand_queries(QUERIES, _ranking([[0, 1, 2]]), AXES, num_neighbors=0)
    np.testing.assert_array_equal(same.vectors, QUERIES.vectors)


def test_expansion_of_no_queries():
    none = GlobalDescriptors([], np.zeros((0, 2)))
    ranking = Ranking([], ["a"], np.zeros((0, 1)), np.zeros((0, 1)))
    assert expand_queries(none, ranking, np.array([[1.0, 0]])).vectors.shape == (0, 2)


def test_augmentation_by_hand():
    augmented = augment_database(GlobalDescriptors(["a", "b", "c"], AXES), num_neighbors=1, alpha=1)
    # a's nearest is b (.6), b's is c (.8), c's is b (.8).
    expected = [[1.36, 0.48], [0.6, 1.6], [0.48, 1.64]]
    np.testing.assert_allclose(augmented.vectors, [_unit(one) for one in expected], atol=1e-6)


def test_augmentation_with_images_stored_twice():
    vectors = np.repeat(AXES, 2, axis=0)
    augmented = augment_database(GlobalDescriptors("abcdef", vectors), num_neighbors=1, alpha=1)
    np.testing.assert_allclose(augmented.vectors, vectors, atol=1e-6)


@pytest.mark.parametrize("num", [0, 1])
def test_augmentation_of_too_few(num):
    descriptors = GlobalDescriptors(["a"][:num], np.ones((num, 1)))
    assert augment_database(descriptors) is descriptors


def test_bad_input():
    with pytest.raises(InputError, match="of these queries"):
        expand_queries(GlobalDescriptors(["z"], [[1.0, 0]]), _ranking([[0]]), AXES)
    with pytest.raises(InputError, match=r"shape \[3, 2\]"):
        expand_queries(QUERIES, _ranking([[0]]), AXES[:2])
    with pytest.raises(InputError, match="num_neighbors"):
        expand_queries(QUERIES, _ranking([[0]]), AXES, num_neighbors=-1)
    with pytest.raises(InputError, match="alpha"):
        augment_database(QUERIES, alpha=-1)
    with pytest.raises(InputError, match="finite"):
        augment_database(QUERIES, alpha=np.nan)
