"""Chance inliers: the quantile, its growth with the number of matches, and bad input."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.benchmarks.synthetic_pairs import make_pair
from delf_tf.checks import InputError
from delf_tf.matching import calibrate
from delf_tf.matching.calibration import ChanceInliers, chance_inliers
from delf_tf.types import LocalFeatures, Verification


def _verification(num_matches, num_inliers):
    mask = np.arange(num_matches) < num_inliers
    return Verification(num_inliers, np.eye(3), np.zeros((num_matches, 2), np.int64), mask)


def test_threshold_is_above_the_quantile():
    found = [_verification(100, count) for count in range(10)]
    assert chance_inliers(found, quantile=1.0).threshold(100) == 10
    assert chance_inliers(found, quantile=0.5).threshold(100) == 6


def test_threshold_grows_with_the_number_of_matches():
    found = [_verification(100, 4)] * 50 + [_verification(300, 8)] * 50
    chance = chance_inliers(found)
    assert [chance.threshold(n) for n in (0, 100, 200, 300, 600)] == [5, 5, 7, 9, 17]


def test_counts_never_fall_with_more_matches():
    found = [_verification(100, 9)] * 50 + [_verification(300, 8)] * 50
    assert chance_inliers(found).max_inliers.tolist() == [9, 9]


def test_calibrated_on_pairs_separates_matches():
    chance = calibrate(
        [(p.query, p.database) for p in (make_pair(s, "none", num_features=300) for s in range(20))]
    )
    assert 5 <= chance.threshold(150) <= 11
    pair = make_pair(0, "affine", num_features=300)
    one = calibrate([(pair.query, pair.database)], quantile=1.0, num_threads=1)
    assert one.threshold(int(one.num_matches[0])) == 46


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: calibrate([]), "at least one pair"),
        (lambda: chance_inliers([_verification(5, 2)], quantile=0), "quantile"),
        (lambda: ChanceInliers(np.zeros(2), np.zeros(3), 0.9), "as many"),
    ],
)
def test_bad_input_is_named(call, word):
    with pytest.raises(InputError, match=word):
        call()


def test_empty_images_calibrate_to_one():
    empty = LocalFeatures.empty(4)
    assert calibrate([(empty, empty)]).threshold(0) == 1
