"""Re-ranking's order, with inlier counts given by hand; and on real verification."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf import matching
from delf_tf.checks import InputError
from delf_tf.retrieval.second_stage.rerank import rerank
from delf_tf.retrieval.second_stage.scores import SCORES
from delf_tf.types import LocalFeatures, Ranking, Verification

# Image d<i> has features whose verification against any query gives COUNTS[i] inliers.
COUNTS = [0, 5, 5, 9, 0, 20, 3, 3]


def _features(name):
    number = int(name[1:])
    descriptors = np.full((30, 2), (0.6, 0.8)) if number % 2 else np.full((30, 2), (1.0, 0))
    return LocalFeatures(np.full((30, 2), number), descriptors, np.ones(30), np.ones(30))


@pytest.fixture
def counted(monkeypatch):
    """Replaces verification by the hand-made counts; returns the list of what was verified."""
    calls = []

    def verify_many(query, databases, *, num_threads=0, **kwargs):
        calls.append([int(one.locations[0, 0]) for one in databases])
        result = []
        for number in calls[-1]:
            pairs = np.tile(np.arange(COUNTS[number])[:, None], (1, 2))
            found = Verification(len(pairs), np.eye(3), pairs, np.ones(len(pairs), bool))
            result.append(found)
        return result

    monkeypatch.setattr(matching, "verify_many", verify_many, raising=False)
    return calls


def _ranking(rows=(tuple(range(8)),)):
    scores = np.tile(np.linspace(1, 0.3, 8), (len(rows), 1))
    return Ranking(
        [f"q{row}" for row in range(len(rows))], [f"d{i}" for i in range(8)], rows, scores
    )


def _rerank(ranking, **kwargs):
    return rerank(ranking, _features, _features, **kwargs)


def test_more_inliers_first_and_ties_as_they_were(counted):
    ranking, verifications = _rerank(_ranking())
    np.testing.assert_array_equal(ranking.indices, [[5, 3, 1, 2, 6, 7, 0, 4]])
    assert counted == [list(range(8))]
    assert [verifications[0][row].num_inliers for row in range(8)] == COUNTS


def test_scores_stay_those_of_the_first_stage(counted):
    before = _ranking()
    after, _ = _rerank(before)
    given = dict(zip(before.indices[0], before.scores[0]))
    np.testing.assert_array_equal(after.scores[0], [given[row] for row in after.indices[0]])


def test_the_head_stays_ahead(counted):
    ranking, verifications = _rerank(_ranking(), num_candidates=3)
    np.testing.assert_array_equal(ranking.indices, [[1, 2, 0, 3, 4, 5, 6, 7]])
    assert list(verifications[0]) == [0, 1, 2]


def test_chance_does_not_reorder(counted):
    ranking, _ = _rerank(_ranking(), min_inliers=6)
    np.testing.assert_array_equal(ranking.indices, [[5, 3, 0, 1, 2, 4, 6, 7]])
    ranking, _ = _rerank(_ranking(), min_inliers=100)
    np.testing.assert_array_equal(ranking.indices, [range(8)])


def test_skipped_images_are_not_candidates(counted):
    ranking, _ = _rerank(_ranking(), num_candidates=3, skip=[np.array([0, 1])])
    assert counted == [[2, 3, 4]]
    np.testing.assert_array_equal(ranking.indices, [[3, 2, 4, 0, 1, 5, 6, 7]])


def test_rows_that_end_early(counted):
    ranking, _ = _rerank(_ranking([[0, 3, -1, -1, -1, -1, -1, -1], [-1] * 8]))
    np.testing.assert_array_equal(ranking.indices[:, :3], [[3, 0, -1], [-1, -1, -1]])


@pytest.mark.parametrize("num_candidates", [0, 1])
def test_too_few_to_reorder(counted, num_candidates):
    ranking, _ = _rerank(_ranking(), num_candidates=num_candidates)
    np.testing.assert_array_equal(ranking.indices, [range(8)])


def test_no_queries(counted):
    empty = Ranking([], ["d0"], np.zeros((0, 1)), np.zeros((0, 1)))
    ranking, verifications = _rerank(empty)
    assert ranking.indices.shape == (0, 1)
    assert verifications == ()


def test_weighted_scores_sum_the_similarity_of_inliers(counted):
    # The query's descriptors are (1, 0): even images agree by 1, odd ones by 0.6.
    # 0:0 1:3 2:5 3:5.4 4:0 5:12 6:3 7:1.8; image 1 and 6 differ in rounding only, not in order.
    ranking, _ = _rerank(_ranking(), score="weighted")
    np.testing.assert_array_equal(ranking.indices[0, [0, 1, 2, 5, 6, 7]], [5, 3, 2, 7, 0, 4])


def test_combined_scores_mix_in_the_first_stage(counted):
    still, _ = _rerank(_ranking(), score="combined", weight=0.0)
    np.testing.assert_array_equal(still.indices, [range(8)])
    much, _ = _rerank(_ranking(), score="combined", weight=100.0)
    np.testing.assert_array_equal(much.indices, [[5, 3, 1, 2, 6, 7, 0, 4]])
    # First stage 1 .9 .8 .7 .6 .5 .4 .3 plus .1 · ln(1 + n).
    some, _ = _rerank(_ranking(), score="combined", weight=0.1)
    np.testing.assert_array_equal(some.indices, [[1, 0, 2, 3, 5, 4, 6, 7]])


def test_a_new_score_is_a_row(counted, monkeypatch):
    monkeypatch.setitem(SCORES, "worst", lambda how, head, first_stage: -head.num_inliers())
    ranking, _ = _rerank(_ranking(), score="worst")
    np.testing.assert_array_equal(ranking.indices, [[0, 4, 6, 7, 1, 2, 3, 5]])


def test_bad_arguments(counted):
    with pytest.raises(InputError, match="Did you mean 'inliers'"):
        _rerank(_ranking(), score="inlier")
    with pytest.raises(InputError, match="num_candidates"):
        _rerank(_ranking(), num_candidates=-1)
    with pytest.raises(InputError, match="skip"):
        _rerank(_ranking(), skip=[])
    assert counted == []


def test_real_verification_finds_the_moved_copy():
    rng = np.random.default_rng(0)

    def scene(seed):
        own = np.random.default_rng(seed)
        descriptors = own.standard_normal((120, 16)).astype(np.float32)
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        return own.uniform(0, 500, (120, 2)), descriptors

    def features(name):
        locations, descriptors = scene(int(name[1:]))
        if name[0] == "q":
            locations = locations * 0.8 + 15 + rng.normal(0, 0.5, locations.shape)
        return LocalFeatures(locations, descriptors, np.ones(120), np.ones(120))

    ranking = Ranking(["q3"], [f"d{i}" for i in range(6)], [range(6)], [np.linspace(1, 0.5, 6)])
    after, verifications = rerank(ranking, features, features, num_threads=1)
    assert after.indices[0, 0] == 3
    assert verifications[0][3].num_inliers > 100
    # x and y are swapped between locations and transforms, and the database image is the larger.
    transform = verifications[0][3].transform / verifications[0][3].transform[2, 2]
    np.testing.assert_allclose(transform[:2, :2], np.eye(2) / 0.8, atol=0.02)
