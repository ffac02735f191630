"""Precision and recall over all queries together, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.evaluation.pooled import pooled_precision_recall
from delf_tf.types import GroundTruth


def _truth(positives, junk=None):
    junk = junk or [[]] * len(positives)
    return GroundTruth(tuple(map(np.array, positives)), tuple(map(np.array, junk)))


def test_queries_share_their_thresholds(make_ranking):
    # q0: .9 right, .2 right; q1, a distractor query: .5 wrong, .1 wrong.
    ranking = make_ranking([[0, 1], [0, 1]], 2, [[0.9, 0.2], [0.5, 0.1]])
    curve = pooled_precision_recall(ranking, _truth([[0, 1], []]))
    np.testing.assert_allclose(curve.thresholds, [0.9, 0.5, 0.2, 0.1])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 2 / 4])
    np.testing.assert_allclose(curve.recall, [1 / 2, 1 / 2, 1, 1])
    assert curve.micro_ap == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert (curve.num_queries, curve.num_distractor_queries) == (2, 1)


def test_equal_scores_are_retrieved_together(make_ranking):
    ranking = make_ranking([[0, 1, 2]], 3, [[5, 5, 1]])
    curve = pooled_precision_recall(ranking, _truth([[1]]))
    np.testing.assert_allclose(curve.thresholds, [5, 1])
    np.testing.assert_allclose(curve.precision, [1 / 2, 1 / 3])


def test_junk_and_missing_results_do_not_count(make_ranking):
    ranking = make_ranking([[0, 1, -1]], 3)
    curve = pooled_precision_recall(ranking, _truth([[1, 2]], [[0]]))
    np.testing.assert_allclose(curve.precision, [1])
    np.testing.assert_allclose(curve.recall, [1 / 2])


def test_scores_of_the_second_stage_and_one_result_a_query(make_ranking):
    ranking = make_ranking([[0, 1], [1, 0]], 2)
    curve = pooled_precision_recall(
        ranking, _truth([[0, 1], [0]]), scores=np.array([[30, 20], [40, 10]]), results_per_query=1
    )
    np.testing.assert_allclose(curve.thresholds, [40, 30])
    np.testing.assert_allclose(curve.precision, [0, 1 / 2])
    np.testing.assert_allclose(curve.recall, [0, 1 / 2])
    assert curve.micro_ap == pytest.approx(1 / 4)


def test_nothing(make_ranking):
    none = pooled_precision_recall(make_ranking([[0]], 1), _truth([[]]))
    assert np.isnan(none.micro_ap)
    empty = pooled_precision_recall(make_ranking([[-1]], 1), _truth([[0]]))
    assert empty.micro_ap == 0
    assert empty.thresholds.shape == (0,)


def test_bad_input(make_ranking):
    ranking = make_ranking([[0, 1]])
    with pytest.raises(InputError, match="one entry a query"):
        pooled_precision_recall(ranking, _truth([]))
    with pytest.raises(InputError, match="scores"):
        pooled_precision_recall(ranking, _truth([[0]]), scores=np.zeros((1, 1)))
    with pytest.raises(InputError, match="results_per_query"):
        pooled_precision_recall(ranking, _truth([[0]]), results_per_query=0)
