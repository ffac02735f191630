"""Any input of the right types gives a sound verification, and no warning."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from delf_tf.checks import InputError
from delf_tf.matching import estimate_transform, match, verify, verify_many
from delf_tf.matching.ransac import RansacOptions
from delf_tf.types import LocalFeatures

MODELS = ["similarity", "affine", "homography"]
# Few distinct values: duplicates, lines and lattices; and the whole range of floats.
_COORDINATES = st.one_of(
    st.integers(-3, 3).map(float),
    st.floats(-1e4, 1e4, width=32),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)


@st.composite
def _point_pairs(draw):
    num = draw(st.integers(0, 30))
    return [draw(hnp.arrays(np.float32, (num, 2), elements=_COORDINATES)) for _ in range(2)]


@settings(max_examples=200, deadline=None)
@given(
    _point_pairs(),
    st.sampled_from(MODELS),
    st.sampled_from(["random", "scales"]),
    st.integers(0, 2**63 - 1),
)
def test_any_points_give_a_sound_answer(points, model, hypotheses, seed):
    options = RansacOptions(model, 5.0, seed=seed, hypotheses=hypotheses, max_trials=200)
    transform, mask = estimate_transform(*points, options)
    assert mask.shape == (len(points[0]),)
    assert np.isfinite(transform).all()
    assert bool(mask.any()) == bool(transform.any())
    assert not mask.any() or mask.sum() > {"similarity": 2, "affine": 3, "homography": 3}[model]
    again = estimate_transform(*points, options)
    np.testing.assert_array_equal(transform, again[0])


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 20), st.just(2)), elements=_COORDINATES),
    st.sampled_from(MODELS),
    st.booleans(),
)
def test_any_features_verify_against_themselves(locations, model, upright):
    num = len(locations)
    descriptors = np.eye(20, dtype=np.float32)[:num]
    features = LocalFeatures(locations, descriptors, np.ones(num), np.full(num, 0.5))
    found = verify(features, features, model, hypotheses="scales", upright=upright)
    assert found.matches.tolist() == [[i, i] for i in range(num)]
    assert 0 <= found.num_inliers <= num


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_named(bad):
    points = np.full((5, 2), bad)
    with pytest.raises(InputError, match="finite"):
        estimate_transform(points, np.zeros((5, 2)))
    with pytest.raises(InputError, match="finite"):
        match(np.zeros((5, 4)), np.full((5, 4), bad))


def test_other_lengths_are_named():
    with pytest.raises(InputError, match="shape"):
        estimate_transform(np.zeros((5, 2)), np.zeros((4, 2)))


def test_duplicates_of_few_points_verify_nothing():
    rng = np.random.default_rng(0)
    three = rng.uniform(0, 500, (3, 2)).repeat(100, axis=0)
    for model in ("affine", "homography"):
        transform, mask = estimate_transform(three[:200], three[:200], RansacOptions(model))
        assert not mask.any()
        assert not transform.any()


def test_one_bad_image_among_many_is_named_and_threads_survive():
    good = LocalFeatures(np.zeros((4, 2)), np.eye(4), np.ones(4), np.ones(4))
    with pytest.raises(InputError, match="width"):
        verify_many(good, [good, good.take([]), _wider(good), good], num_threads=2)
    assert len(verify_many(good, [good] * 4, num_threads=2)) == 4


def _wider(features):
    return LocalFeatures(features.locations, np.eye(4, 5), features.scores, features.scales)


@pytest.mark.slow
def test_a_hundred_thousand_features():
    rng = np.random.default_rng(0)
    num = 100_000
    descriptors = rng.standard_normal((num, 8)).astype(np.float32)
    xy = rng.uniform(0, 10_000, (num, 2)).astype(np.float32)
    features = LocalFeatures(xy, descriptors, np.ones(num), np.ones(num))
    assert verify(features, features).num_inliers == num
