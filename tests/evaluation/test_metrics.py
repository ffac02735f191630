"""The revisited protocol against hand-made numbers and the reference's own outputs."""

from __future__ import annotations

import json

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.evaluation.metrics import average_precision, evaluate_ranking, mean_by_place
from delf_tf.types import GroundTruth, Ranking
from tests.golden_arrays import revisited_oxford

PROTOCOLS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


def _ground_truth(entries, protocol):
    ok, junk = PROTOCOLS[protocol]

    def rows(names):
        return tuple(
            np.concatenate([np.asarray(entry[name], np.int64) for name in names])
            for entry in entries
        )

    return GroundTruth(rows(ok), rows(junk))


def _ranking(indices, num_images=None):
    indices = np.asarray(indices, np.int64)
    num_images = num_images or int(indices.max()) + 1
    queries = [f"q{row}" for row in range(len(indices))]
    return Ranking(
        queries, [f"d{row}" for row in range(num_images)], indices, np.zeros(indices.shape)
    )


def test_average_precision_of_hand_made_positions():
    # (1 + 1) / 2 = 1, then (1/2 + 2/3) / 2 = 7/12; over 2 positives.
    assert average_precision(np.array([0, 2]), 2) == pytest.approx((1 + 7 / 12) / 2)
    assert average_precision(np.array([0, 1, 2]), 3) == 1
    # r = 1: left 0/1, right 1/2.
    assert average_precision(np.array([1]), 1) == pytest.approx(0.25)


def test_average_precision_counts_missing_positives_as_nothing():
    assert average_precision(np.array([0]), 4) == pytest.approx(0.25)
    assert average_precision(np.zeros(0, int), 4) == 0
    assert np.isnan(average_precision(np.zeros(0, int), 0))


@pytest.mark.parametrize("positions", [[1, 1], [2, 1], [-1, 2], [0.5, 1], [[0, 1]]])
def test_average_precision_refuses_positions_that_are_none(positions):
    with pytest.raises(InputError, match="positions"):
        average_precision(np.array(positions), 3)


def test_average_precision_refuses_more_positions_than_positives():
    with pytest.raises(InputError, match="num_positives"):
        average_precision(np.array([0, 1]), 1)


def test_evaluate_ranking_removes_junk_before_it_counts():
    ranking = _ranking([[3, 0, 1, 2]])
    ground_truth = GroundTruth((np.array([0, 2]),), (np.array([3]),))
    metrics = evaluate_ranking(ranking, ground_truth, ks=(1, 2, 10))
    assert metrics.mAP == pytest.approx((1 + 7 / 12) / 2)
    # k = 10 is cut at the last positive, position 3.
    assert metrics.mP == pytest.approx({1: 1, 2: 0.5, 10: 2 / 3})
    assert metrics.mR == pytest.approx({1: 0.5, 2: 0.5, 10: 1})
    assert metrics.num_queries == 1


def test_evaluate_ranking_leaves_out_queries_without_positives():
    ranking = _ranking([[0, 1], [1, 0]])
    ground_truth = GroundTruth((np.array([0]), np.array([])), (np.array([]), np.array([1])))
    metrics = evaluate_ranking(ranking, ground_truth)
    assert metrics.mAP == 1
    assert metrics.num_queries == 1
    np.testing.assert_array_equal(metrics.per_query_ap, [1, np.nan])


def test_evaluate_ranking_of_nothing():
    ranking = Ranking([], ["a"], np.zeros((0, 1)), np.zeros((0, 1)))
    metrics = evaluate_ranking(ranking, GroundTruth((), ()))
    assert np.isnan(metrics.mAP)
    assert metrics.num_queries == 0
    assert metrics.per_query_ap.shape == (0,)


def test_evaluate_ranking_without_results_scores_zero():
    ranking = Ranking(["q"], ["a", "b"], np.full((1, 2), -1), np.zeros((1, 2)))
    metrics = evaluate_ranking(ranking, GroundTruth((np.array([0]),), (np.array([1]),)))
    assert metrics.mAP == 0
    assert metrics.mP == {1: 0, 5: 0, 10: 0}


def test_evaluate_ranking_refuses_a_ground_truth_of_something_else():
    ranking = _ranking([[0, 1]])
    with pytest.raises(InputError, match="one entry a query"):
        evaluate_ranking(ranking, GroundTruth((), ()))
    with pytest.raises(InputError, match=r"rows of the database, 0\.\.1"):
        evaluate_ranking(ranking, GroundTruth((np.array([2]),), (np.array([]),)))
    with pytest.raises(InputError, match="ks"):
        evaluate_ranking(ranking, GroundTruth((np.array([0]),), (np.array([]),)), ks=(0,))


def test_mean_by_place_weighs_places_equally():
    ap = np.array([1.0, 0.0, 0.5, np.nan, np.nan])
    assert mean_by_place(ap, ["a", "a", "b", "b", "c"]) == pytest.approx(0.5)
    assert np.isnan(mean_by_place(np.full(2, np.nan), ["a", "b"]))
    assert np.isnan(mean_by_place(np.zeros(0), []))
    with pytest.raises(InputError, match="places"):
        mean_by_place(ap, ["a"])


def test_revisited_figures_on_the_real_ground_truth(golden_dir):
    golden = json.loads((golden_dir / "revisitop/revisitop_roxford5k.json").read_text())
    gnd = revisited_oxford(golden_dir)["gnd"]
    rng = np.random.RandomState(golden["seed"])
    scores = rng.rand(golden["num_images"], golden["num_queries"])
    for query, entry in enumerate(gnd):
        for name, bonus in (("easy", 0.7), ("hard", 0.35), ("junk", 0.5)):
            ids = np.asarray(entry[name], int)
            if len(ids):
                scores[ids, query] += bonus * rng.rand(len(ids))
    ranking = _ranking(np.argsort(-scores, axis=0, kind="stable").T)
    for protocol in PROTOCOLS:
        expected = golden["expected"][protocol[0].upper()]
        metrics = evaluate_ranking(ranking, _ground_truth(gnd, protocol), golden["kappas"])
        assert metrics.mAP == pytest.approx(expected["map"], abs=1e-9)
        np.testing.assert_allclose(list(metrics.mP.values()), expected["mp"], atol=1e-9)
        np.testing.assert_allclose(metrics.per_query_ap, _floats(expected["aps"]), atol=1e-9)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_original_delf_figures(golden_dir, protocol):
    golden = json.loads((golden_dir / "delf/revisitop/metrics.json").read_text())
    ranks = np.load(golden_dir / "delf/revisitop/ranks.npz")["ranks"]
    expected = golden["expected"][protocol]
    metrics = evaluate_ranking(
        _ranking(ranks), _ground_truth(golden["ground_truth"], protocol), golden["pr_ranks"]
    )
    assert metrics.mAP == pytest.approx(expected["mAP"], abs=1e-9)
    np.testing.assert_allclose(list(metrics.mP.values()), expected["mP"], atol=1e-9)
    np.testing.assert_allclose(list(metrics.mR.values()), expected["mR"], atol=1e-9)
    np.testing.assert_allclose(metrics.per_query_ap, _floats(expected["AP"]), atol=1e-9)
    np.testing.assert_allclose(metrics.per_query_precision, expected["P"], atol=1e-9)
    np.testing.assert_allclose(metrics.per_query_recall, expected["R"], atol=1e-9)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("depth", ["full", "top50"])
def test_small_cases_full_and_cut_short(golden_dir, protocol, depth):
    golden = json.loads((golden_dir / "revisitop/small_cases.json").read_text())
    ranks = np.array(golden["ranks"]).T
    ranking = _ranking(ranks if depth == "full" else ranks[:, :50], len(golden["ranks"]))
    metrics = evaluate_ranking(ranking, _ground_truth(golden["gnd"], protocol), golden["kappas"])
    expected = golden["results"][f"{protocol}/{depth}"]
    if isinstance(expected, str):
        # The reference raises when a query's positives all lie beyond the cut; here AP is 0.
        assert (metrics.per_query_ap == 0).any()
        return
    assert metrics.mAP == pytest.approx(expected["map"], abs=1e-9)
    np.testing.assert_allclose(metrics.per_query_ap, _floats(expected["aps"]), atol=1e-9)
    np.testing.assert_allclose(list(metrics.mP.values()), expected["mprs"], atol=1e-9)
    np.testing.assert_allclose(metrics.per_query_precision, _floats(expected["prs"]), atol=1e-9)


def _floats(values):
    return np.array(values, float)  # None becomes NaN
