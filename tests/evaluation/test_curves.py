from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.evaluation import curves
from delf_tf.types import GroundTruth, Ranking


def _ranking(*rows):
    indices = np.array(rows, np.int64).reshape(len(rows), -1)
    names = tuple(f"d{row}" for row in range(6))
    queries = tuple(f"q{row}" for row in range(len(rows)))
    return Ranking(queries, names, indices, np.zeros(indices.shape, np.float32))


def _truth(positives, junk=None):
    as_rows = lambda many: tuple(np.array(one, np.int64) for one in many)  # noqa: E731
    return GroundTruth(as_rows(positives), as_rows(junk or [[]] * len(positives)))


def test_by_hand():
    # Positives at positions 0 and 2: precision 1 up to recall 1/2, then 2/3.
    recall, precision = curves.mean_precision_at_recall(_ranking([0, 1, 2, 3]), _truth([[0, 2]]), 5)
    np.testing.assert_allclose(recall, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(precision, [1, 1, 1, 2 / 3, 2 / 3])


def test_junk_is_passed_over_and_what_is_not_found_counts_as_zero():
    truth = _truth([[2, 5]], [[0, 1]])
    _, precision = curves.mean_precision_at_recall(_ranking([0, 1, 2, 3]), truth, 3)
    np.testing.assert_allclose(precision, [1, 1, 0])


def test_queries_are_averaged_and_those_without_positives_left_out():
    ranking = _ranking([0, 1], [1, 0], [1, 0])
    _, precision = curves.mean_precision_at_recall(ranking, _truth([[0], [0], []]), 3)
    np.testing.assert_allclose(precision, [0.75, 0.75, 0.75])


def test_nothing_scored_is_nan():
    _, precision = curves.mean_precision_at_recall(_ranking([0, 1]), _truth([[]]), 3)
    assert np.isnan(precision).all()


def test_refusals():
    with pytest.raises(InputError, match="num_points must be 2 or more"):
        curves.mean_precision_at_recall(_ranking([0]), _truth([[0]]), 1)
    with pytest.raises(InputError, match="one entry a query"):
        curves.mean_precision_at_recall(_ranking([0]), _truth([[0], [1]]))
