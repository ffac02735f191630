"""The probability of a pair: chance moves nothing, and a fit finds what made the pairs."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.retrieval.second_stage import pair_probability
from delf_tf.retrieval.second_stage.pair_probability import (
    LabelledPairs,
    PairProbability,
    fit_pair_probability,
    scene_pairs,
)
from delf_tf.retrieval.second_stage.scores import Scoring, sort_heads
from delf_tf.retrieval.second_stage.verification_files import VerifiedHead
from delf_tf.types import Ranking, Verification


def _verified(inliers, matches):
    mask = np.arange(matches) < inliers
    return Verification(inliers, np.eye(3), np.zeros((matches, 2), np.int64), mask)


def test_logit_by_hand():
    model = PairProbability(10.0, 2.0, -5.0, chance_inliers=8.0, chance_share=0.1)
    # 8 + 0.1 * 40 = 12 inliers are chance: ln(1 + 20 - 12) = ln 9.
    found = model.logit(np.array([0.3, 0.3]), np.array([20, 12]), np.array([40, 40]))
    np.testing.assert_allclose(found, [3 + 2 * np.log(9) - 5, 3 - 5])


def test_inliers_that_chance_gives_move_nothing():
    ranking = Ranking(
        ("q",), tuple("abcd"), np.array([[0, 1, 2, 3]]), np.array([[0.9, 0.8, 0.7, 0.6]])
    )
    found = tuple(_verified(n, 60) for n in (0, 14, 2, 60))
    head = VerifiedHead(np.arange(4), np.zeros(4, np.float32), found)
    orders = {}
    for name, model in (
        ("fitted", PairProbability(10, 2)),
        ("eager", PairProbability(10, 2, 0, 0, 0)),
    ):
        values = Scoring("probability", probability=model)(head, ranking.scores[0])
        orders[name] = sort_heads(ranking, [np.arange(4)], [values]).indices.tolist()
    assert orders["fitted"] == [[3, 0, 1, 2]]
    assert orders["eager"] == [[3, 1, 2, 0]]
    with pytest.raises(InputError, match="fitted PairProbability"):
        Scoring("probability")


def test_a_fit_finds_the_weights_that_made_the_labels():
    random = np.random.default_rng(0)
    similarity, matches = random.uniform(0, 0.5, 20000), random.integers(0, 80, 20000)
    inliers = random.integers(0, 60, 20000)
    truth = PairProbability(12.0, 2.0, -6.0)
    odds = truth.logit(similarity, inliers, matches)
    is_match = random.random(20000) < 1 / (1 + np.exp(-odds))
    fitted = fit_pair_probability(LabelledPairs(similarity, inliers, matches, is_match))
    assert fitted.similarity == pytest.approx(12, rel=0.05)
    assert fitted.evidence == pytest.approx(2, rel=0.05)
    assert fitted.intercept == pytest.approx(-6, rel=0.05)
    held = fit_pair_probability(
        LabelledPairs(similarity, inliers, matches, is_match), evidence_ratio=0.1
    )
    assert held.evidence == pytest.approx(0.1 * held.similarity)
    assert held.similarity > 12
    with pytest.raises(InputError, match="pairs that do not"):
        fit_pair_probability(LabelledPairs(similarity, inliers, matches, np.ones(20000, bool)))


def test_a_fit_of_learned_similarities():
    random = np.random.default_rng(0)
    similarity, learned = random.uniform(0, 0.5, 20000), random.uniform(0, 100, 20000)
    none = np.zeros(20000, int)
    truth = PairProbability(12.0, 0.0, -6.0, learned=0.05)
    odds = truth.logit(similarity, none, none, learned)
    is_match = random.random(20000) < 1 / (1 + np.exp(-odds))
    pairs = LabelledPairs(similarity, none, none, is_match, learned=learned)
    for ratio in (None, 0.1):
        fitted = fit_pair_probability(pairs, evidence_ratio=ratio)
        assert fitted.learned == pytest.approx(0.05, rel=0.05)
        assert fitted.similarity == pytest.approx(12, rel=0.05)
    with pytest.raises(InputError, match="must be given them"):
        truth.logit(similarity, none, none)


def test_evidence_never_counts_against_a_pair():
    pairs = LabelledPairs(
        np.array([0.1, 0.2, 0.8, 0.9]),
        np.array([50, 60, 0, 0]),
        np.full(4, 60),
        np.array([False, False, True, True]),
    )
    assert fit_pair_probability(pairs).evidence == 0


def test_pictures_that_many_inliers_join_are_one_scene():
    names = tuple("abcde")
    order = np.array([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [2, 1, 0, 3, 4]])
    ranking = Ranking(names[:3], names, order, np.array([[1, 0.5, 0.4, 0.3, 0.2]] * 3))
    # a and b, b and c are joined; a and c, through b. d has doubtful inliers with a, none with c.
    counts = [
        {0: 99, 1: 30, 2: 5, 3: 25},
        {1: 99, 0: 30, 2: 40, 3: 19},
        {2: 99, 1: 40, 3: 0},
    ]
    found = [{row: _verified(n, max(n, 1)) for row, n in one.items()} for one in counts]
    pairs = scene_pairs(ranking, found)
    assert pairs.num_inliers.tolist() == [30, 5, 30, 40, 19, 40, 0]
    assert pairs.is_match.tolist() == [True, True, True, True, False, True, False]
    np.testing.assert_allclose(pairs.first_stage, [0.5, 0.4, 0.5, 0.4, 0.3, 0.5, 0.3])
    labels = {"a": "x", "c": "x", "d": ""}
    pairs = scene_pairs(ranking, found, labels)
    assert pairs.is_match.tolist() == [False, True, False] + [False] * 5
    with pytest.raises(InputError, match="images of the database"):
        scene_pairs(Ranking(("q",), names, order[:1], ranking.scores[:1]), found[:1])
    assert pair_probability.DOUBTFUL_INLIERS < pair_probability.JOINING_INLIERS


@pytest.mark.parametrize(
    "numbers", [{"similarity": -1}, {"evidence": np.nan}, {"chance_share": 1.5}]
)
def test_numbers_out_of_range(numbers):
    with pytest.raises(InputError):
        PairProbability(**{"similarity": 1.0, "evidence": 1.0, **numbers})
