"""Recall at k."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.datasets.folder import ground_truth
from delf_tf.evaluation.metrics import recall_at_k
from delf_tf.types import GroundTruth, Ranking

IDS = ("a1", "a2", "b1", "x1", "a3")
PLACES = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "x1": ""}


def _ranking(rows):
    return Ranking(IDS, IDS, rows, np.tile(np.linspace(1, 0.2, 5), (5, 1)))


def test_recall_at_k_skips_junk_and_queries_without_positives():
    ranking = _ranking([[0, 2, 1, 3, 4], [1, 0, 2, 3, 4], [2, 0, 1, 3, 4]] + [range(5)] * 2)
    truth = ground_truth(ranking.query_ids, ranking.database_ids, PLACES)
    # First positives, the query taken out: a1 at 1, a2 at 0, a3 at 0.
    assert recall_at_k(ranking, truth, (1, 2)) == {1: pytest.approx(2 / 3), 2: 1}
    missing = Ranking(["q"], ["d"], [[-1]], [[0]])
    truth = GroundTruth((np.array([0]),), (np.array([]),))
    assert recall_at_k(missing, truth, (1,)) == {1: 0}
    nothing = recall_at_k(missing, GroundTruth((np.array([]),), (np.array([]),)), (1,))
    assert np.isnan(nothing[1])


def test_recall_at_k_refuses():
    truth = GroundTruth((), ())
    with pytest.raises(InputError, match="ks"):
        recall_at_k(_ranking([range(5)] * 5), truth, (0,))
    with pytest.raises(InputError, match="one entry a query"):
        recall_at_k(_ranking([range(5)] * 5), truth)
