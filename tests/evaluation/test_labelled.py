"""Recall at k, Holidays, UKBench."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.datasets.folder import ground_truth
from delf_tf.evaluation.labelled import (
    holidays_labels,
    recall_at_k,
    ukbench_labels,
    ukbench_score,
)
from delf_tf.evaluation.metrics import evaluate_ranking
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


def test_holidays():
    ids = ("jpg/100000.jpg", "jpg/100001.jpg", "jpg/100100.jpg", "jpg/100101.jpg", "jpg/100102.jpg")
    queries, labels = holidays_labels(ids)
    assert queries == ("jpg/100000.jpg", "jpg/100100.jpg")
    assert list(labels.values()) == ["1000", "1000", "1001", "1001", "1001"]
    rows = [[0, 1, 2, 3, 4], [2, 0, 3, 4, 1]]
    ranking = Ranking(queries, ids, rows, np.zeros((2, 5)))
    metrics = evaluate_ranking(
        ranking, ground_truth(ranking.query_ids, ranking.database_ids, labels)
    )
    # The second: positives at 1 and 2 of 2: ((0 + 1/2) / 2 + (1/2 + 2/3) / 2) / 2.
    np.testing.assert_allclose(metrics.per_query_ap, [1, (0.25 + 7 / 12) / 2])
    with pytest.raises(InputError, match="number"):
        holidays_labels(["cover.jpg"])


def test_ukbench():
    ids = tuple(f"ukbench{number:05}.jpg" for number in range(8))
    labels = ukbench_labels(ids)
    assert list(labels.values()) == ["0"] * 4 + ["1"] * 4
    ranking = Ranking(ids[:2], ids, [[0, 1, 2, 3], [1, 4, 5, 0]], np.zeros((2, 4)))
    assert ukbench_score(ranking, labels) == 3
    assert np.isnan(ukbench_score(Ranking([], ids, np.zeros((0, 4)), np.zeros((0, 4))), labels))
    with pytest.raises(InputError, match="at least 4"):
        ukbench_score(Ranking(ids[:1], ids, [[0]], [[0]]), labels)
    with pytest.raises(InputError, match="label"):
        ukbench_score(ranking, {})
