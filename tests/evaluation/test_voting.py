"""Votes counted by hand."""

from __future__ import annotations

import pytest

from delf_tf.checks import InputError
from delf_tf.evaluation.voting import NON_LANDMARK, recognize

LABELS = {"d0": 7, "d1": 8, "d2": 8, "d3": NON_LANDMARK}


def _vote(make_ranking, rows, scores, **kwargs):
    return recognize(make_ranking(rows, 4, scores), LABELS, **kwargs)


def test_the_class_with_the_most_votes_wins(make_ranking):
    answers = _vote(make_ranking, [[0, 1, 2]], [[0.9, 0.8, 0.5]], k=3)
    assert answers == {"q0": (8, pytest.approx(1.3 / 3))}
    # One voter alone.
    assert _vote(make_ranking, [[0, 1, 2]], [[0.9, 0.8, 0.5]], k=1) == {
        "q0": (7, pytest.approx(0.9))
    }


def test_power_prefers_the_near(make_ranking):
    answers = _vote(make_ranking, [[0, 1, 2]], [[0.9, 0.5, 0.5]], k=3, power=4)
    assert answers["q0"] == (7, pytest.approx(0.9**4 / 3))


def test_non_landmarks_lower_the_confidence_or_silence(make_ranking):
    answers = _vote(make_ranking, [[0, 3], [3, 0]], [[0.9, 0.4], [0.9, 0.4]], k=2)
    assert answers == {"q0": (7, pytest.approx(0.25))}


def test_equal_votes_go_to_the_better_ranked(make_ranking):
    assert _vote(make_ranking, [[1, 0]], [[0.5, 0.5]])["q0"][0] == 8


def test_no_voters_no_answer(make_ranking):
    assert _vote(make_ranking, [[-1, -1]], [[0, 0]]) == {}


def test_bad_input(make_ranking):
    with pytest.raises(InputError, match="k must be 1"):
        _vote(make_ranking, [[0]], [[1]], k=0)
    with pytest.raises(InputError, match=r"missing=\['d4'\]"):
        recognize(make_ranking([[4]]), LABELS)


def test_equal_votes_are_equal_in_whatever_order_they_are_added(make_ranking):
    # Both classes get 0.1, 0.17 and 0.73 to the power of 1.7; the second, added from the largest
    # on, has 1e-16 more.
    labels = {"d0": 7, "d1": 8, "d2": 7, "d3": 8, "d4": 7, "d5": 8}
    ranking = make_ranking([range(6)], 6, [[0.1, 0.73, 0.17, 0.17, 0.73, 0.1]])
    assert recognize(ranking, labels, k=6, power=1.7)["q0"][0] == 7
