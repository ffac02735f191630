"""Verification on pairs with known transforms, and on input that means harm."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.benchmarks.synthetic_pairs import make_pair, project
from delf_tf.checks import InputError
from delf_tf.matching import verify, verify_many
from delf_tf.types import LocalFeatures


def _features(xy, descriptors=None, scales=None):
    xy = np.asarray(xy, np.float32)
    if descriptors is None:
        descriptors = np.eye(max(len(xy), 1), dtype=np.float32)[: len(xy)]
    scales = np.ones(len(xy)) if scales is None else scales
    return LocalFeatures(xy[:, ::-1], descriptors, np.ones(len(xy)), scales)


def _recall(pair, verification):
    truth = set(map(tuple, pair.truth))
    inliers = set(map(tuple, verification.matches[verification.inlier_mask]))
    return len(truth & inliers) / len(truth)


def _grid(num=6, step=50.0):
    return np.stack(np.meshgrid(np.arange(num) * step, np.arange(num) * step), -1).reshape(-1, 2)


TRANSFORMS = {
    "similarity": [[1.1, -0.3, 20], [0.3, 1.1, -5], [0, 0, 1]],
    "affine": [[1.2, 0.3, 20], [-0.1, 0.8, -5], [0, 0, 1]],
    "homography": [[1.2, 0.1, 10], [-0.1, 0.9, 5], [6e-4, -2e-4, 1]],
}


@pytest.mark.parametrize("model", TRANSFORMS)
def test_recovers_an_exact_transform(model):
    truth = np.array(TRANSFORMS[model])
    xy = _grid()
    found = verify(_features(xy), _features(project(truth, xy)), model=model, inlier_threshold_px=3)
    assert found.num_inliers == len(xy)
    np.testing.assert_allclose(project(found.transform, xy), project(truth, xy), atol=1e-2)


def test_inlier_mask_is_what_the_transform_says():
    pair = make_pair(0, "homography", num_features=300)
    found = verify(pair.query, pair.database, inlier_threshold_px=8)
    xy, uv = (
        features.locations[rows][:, ::-1].astype(np.float64)
        for features, rows in zip((pair.query, pair.database), found.matches.T)
    )
    mapped = project(found.transform, xy)
    below = np.c_[xy, np.ones(len(xy))] @ found.transform[2]
    area = abs(np.linalg.det(found.transform) / below**3)
    near = np.linalg.norm(mapped - uv, axis=1) < 8 * np.minimum(area, 1) ** 0.25
    np.testing.assert_array_equal(near, found.inlier_mask)


@pytest.mark.parametrize("kind", ["affine", "homography"])
@pytest.mark.parametrize("dim", [40, 128])
def test_finds_the_true_inliers(kind, dim):
    pairs = [make_pair(seed, kind, dim=dim) for seed in range(6)]
    recalls = [_recall(pair, verify(pair.query, pair.database)) for pair in pairs]
    assert np.mean(recalls) >= 0.97


def test_chance_inliers_are_few():
    pairs = [make_pair(seed, "none") for seed in range(10)]
    assert max(verify(pair.query, pair.database).num_inliers for pair in pairs) <= 10


def test_many_equal_one_by_one_on_any_number_of_threads():
    pairs = [
        make_pair(seed, kind, num_features=200) for seed in range(4) for kind in ("affine", "none")
    ]
    query = pairs[0].query
    databases = [pair.database for pair in pairs]
    alone = [verify(query, database, seed=3) for database in databases]
    for num_threads in (1, 2, 5):
        together = verify_many(query, databases, seed=3, num_threads=num_threads)
        for a, b in zip(alone, together):
            np.testing.assert_array_equal(a.matches, b.matches)
            np.testing.assert_array_equal(a.inlier_mask, b.inlier_mask)
            np.testing.assert_array_equal(a.transform, b.transform)
    assert verify_many(query, []) == []


@pytest.mark.parametrize("num", [0, 1, 2, 3])
@pytest.mark.parametrize("model", TRANSFORMS)
def test_too_few_features_verify_nothing(num, model):
    features = _features(_grid()[:num], np.eye(8, dtype=np.float32)[:num])
    for pair in ((features, features), (features, LocalFeatures.empty(8))):
        found = verify(*pair, model=model)
        assert found.num_inliers == (
            num if model == "similarity" and num == 3 and len(pair[1]) else 0
        )


@pytest.mark.parametrize(
    ("transform", "name"),
    [
        ([[-1, 0, 300], [0, 1, 0], [0, 0, 1]], "mirrored"),
        ([[1000, 0, 0], [0, 1000, 0], [0, 0, 1]], "magnified"),
        ([[1e-3, 0, 0], [0, 1e-3, 0], [0, 0, 1]], "shrunk"),
        ([[10, 0, 0], [0, 0.1, 0], [0, 0, 1]], "stretched"),
        ([[1, 0, 0], [0, 0, 0], [0, 0, 1]], "collinear"),
        ([[0, 0, 5], [0, 0, 5], [0, 0, 1]], "equal"),
    ],
)
@pytest.mark.parametrize("model", TRANSFORMS)
def test_implausible_transforms_are_refused(transform, name, model):
    xy = _grid()
    uv = project(np.array(transform, float), xy)
    for pair in ((xy, uv), (uv, xy)):
        found = verify(*map(_features, pair), model=model, inlier_threshold_px=1)
        assert found.num_inliers < 12, name


def test_mirrored_is_found_when_allowed():
    xy = _grid()
    uv = project(np.array([[-1.0, 0, 300], [0, 1, 0], [0, 0, 1]]), xy)
    found = verify(_features(xy), _features(uv), inlier_threshold_px=1, allow_mirrored=True)
    assert found.num_inliers == len(xy)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"model": "afine"}, "affine"),
        ({"inlier_threshold_px": 0}, "inlier_threshold_px"),
        ({"inlier_threshold_px": float("nan")}, "inlier_threshold_px"),
        ({"max_trials": 0}, "max_trials"),
        ({"confidence": 1}, "confidence"),
        ({"max_scale": 0.5}, "max_scale"),
        ({"seed": -1}, "seed"),
        ({"num_threads": -2}, "num_threads"),
        ({"database": np.zeros((3, 4))}, "LocalFeatures"),
        ({"database": _features(_grid()[:3])}, "width"),
    ],
)
def test_bad_arguments_are_named(arguments, word):
    features = _features(_grid())
    arguments = {"query": features, "database": features, **arguments}
    with pytest.raises(InputError, match=word):
        verify(**arguments)


@pytest.mark.parametrize("swapped", [False, True])
def test_an_image_without_features_matches_nothing(swapped):
    pair = [_features(_grid()), LocalFeatures.empty(7)]
    found = verify(*reversed(pair)) if swapped else verify(*pair)
    assert found.num_inliers == 0
    assert found.matches.shape == (0, 2)
    assert found.inlier_mask.shape == (0,)
    assert not found.transform.any()


def test_a_threshold_by_share_does_not_depend_on_the_images_size():
    pair = make_pair(1, "affine", num_features=200)
    counts = []
    for factor in (1, 8):
        database = LocalFeatures(
            pair.database.locations * factor,
            pair.database.descriptors,
            pair.database.scores,
            pair.database.scales,
        )
        options = {"model": "affine", "max_scale": 64, "inlier_threshold_share": 0.01}
        counts.append(verify(pair.query, database, **options).num_inliers)
    assert counts[0] == counts[1] > 20
    extent = np.ptp(pair.database.locations, axis=0).max()
    same = verify(pair.query, pair.database, model="affine", inlier_threshold_px=0.01 * extent)
    assert same.num_inliers == counts[0]
    with pytest.raises(InputError, match="inlier_threshold_share"):
        verify(pair.query, pair.database, inlier_threshold_share=-0.1)
