"""The fitted weight of inliers."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.matching.calibration import ChanceInliers
from delf_tf.retrieval.second_stage.inlier_weight import fit_weight, held_out_map
from delf_tf.types import GroundTruth, Ranking, Verification


def _found(num_inliers):
    return Verification(
        num_inliers, np.eye(3), np.zeros((num_inliers, 2)), np.ones(num_inliers, bool)
    )


RANKING = Ranking(["q"], ["a", "b", "c"], [[0, 1, 2]], [[0.9, 0.5, 0.1]])
TRUTH = GroundTruth((np.array([1]),), (np.array([], np.int64),))


def test_the_smallest_weight_that_does_it():
    # b passes a when .5 + w ln 21 > .9, w > .1314; c would pass b if its 99 inliers weighed more
    # than .4: w (ln 100 − ln 21) > .4, w > .2563.
    verifications = ({0: _found(0), 1: _found(20), 2: _found(99)},)
    fitted = fit_weight(RANKING, verifications, TRUTH, weights=(0, 0.1, 0.14, 0.2, 0.3))
    assert fitted.weight == 0.14
    assert fitted.mAP == 1
    # b second: (0 + 1/2) / 2.
    assert [mAP for _, mAP in fitted.tried] == [0.25, 0.25, 1, 1, 0.25]
    assert fitted.num_queries == 1


def test_chance_weighs_nothing():
    verifications = ({0: _found(0), 1: _found(20), 2: _found(0)},)
    fitted = fit_weight(RANKING, verifications, TRUTH, min_inliers=21)
    assert (fitted.weight, fitted.mAP) == (0, 0.25)


def test_learned_chance_weighs_nothing():
    # All matches of these verifications are inliers: 20 of 20 is chance if chance gives 25 there.
    verifications = ({0: _found(0), 1: _found(20), 2: _found(0)},)
    for limit, expected in ((25, 0.25), (10, 1)):
        chance = ChanceInliers(np.array([20.0]), np.array([limit]), 0.99)
        assert fit_weight(RANKING, verifications, TRUTH, min_inliers=chance).mAP == expected


def test_each_half_is_scored_with_the_other_halfs_weight():
    # p wants a weight of .14 or more, r none: fitted on the other's half both come second, 1/4.
    ranking = Ranking(["p", "r"], ["a", "b"], [[0, 1], [0, 1]], [[0.9, 0.5], [0.9, 0.5]])
    found = ({0: _found(0), 1: _found(20)}, {0: _found(0), 1: _found(20)})
    none = np.array([], np.int64)
    truth = GroundTruth((np.array([1]), np.array([0])), (none, none))
    assert held_out_map(ranking, found, truth, ["x", "y"], weights=(0, 0.14)) == 0.25
    assert held_out_map(ranking, found, truth, ["x", "x"], weights=(0, 0.14)) is None
    same = GroundTruth((np.array([1]), np.array([1])), (none, none))
    assert held_out_map(ranking, found, same, ["x", "y"], weights=(0, 0.14)) == 1


def test_bad_input():
    with pytest.raises(InputError, match="one entry a query"):
        fit_weight(RANKING, (), TRUTH)
    with pytest.raises(InputError, match="weights"):
        fit_weight(RANKING, ({},), TRUTH, weights=())
    with pytest.raises(InputError, match="verified images"):
        fit_weight(RANKING, ({5: _found(1)},), TRUTH)
    none = GroundTruth((np.array([], np.int64),), (np.array([], np.int64),))
    with pytest.raises(InputError, match="positives"):
        fit_weight(RANKING, ({},), none)
