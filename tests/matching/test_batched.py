"""The TensorFlow form gives what `verify_many` gives."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.benchmarks.synthetic_pairs import make_pair
from delf_tf.checks import InputError
from delf_tf.matching import verify_many
from delf_tf.matching.batched import verify_batched
from delf_tf.types import LocalFeatures


@pytest.fixture(scope="module")
def images():
    pairs = [
        make_pair(seed, kind, num_features=num)
        for seed, num in ((0, 200), (1, 300))
        for kind in ("affine", "homography", "none")
    ]
    return pairs[0].query, [pair.database for pair in pairs] + [LocalFeatures.empty(40)]


@pytest.mark.parametrize(
    "limits", [{}, {"max_ratio": 0.9, "mutual": False}, {"max_distance": 0.9, "model": "affine"}]
)
@pytest.mark.parametrize("batch_size", [3, 32])
def test_equals_the_compiled_form(images, limits, batch_size):
    query, databases = images
    expected = verify_many(query, databases, **limits)
    found = verify_batched(query, databases, batch_size=batch_size, **limits)
    assert [each.num_inliers for each in found] == [each.num_inliers for each in expected]
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a.matches, b.matches)
    assert found[0].num_inliers >= 30


def test_single_feature_has_no_runner_up():
    one = LocalFeatures(np.zeros((1, 2)), np.ones((1, 4)), np.ones(1), np.ones(1))
    found = verify_batched(one, [one], max_ratio=0.8)[0]
    assert found.matches.tolist() == [[0, 0]]


def test_empty(images):
    query = images[0]
    assert verify_batched(query, []) == []
    empty = LocalFeatures.empty(40)
    assert [each.num_inliers for each in verify_batched(empty, [query, empty])] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"databases": [LocalFeatures.empty(3), None]}, "LocalFeatures"),
        (
            {"databases": [LocalFeatures(np.zeros((1, 2)), np.ones((1, 3)), [1], [1])]},
            "width",
        ),
    ],
)
def test_bad_input_is_named(images, arguments, word):
    query, databases = images
    with pytest.raises(InputError, match=word):
        verify_batched(**{"query": query, "databases": databases, **arguments})
