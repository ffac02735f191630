from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.types import (
    GlobalDescriptors,
    GroundTruth,
    ImageRef,
    LocalFeatures,
    Ranking,
    Verification,
)


def _local(num=3, dim=4):
    return LocalFeatures(
        np.arange(num * 2).reshape(num, 2), np.ones((num, dim)), np.arange(num), np.ones(num)
    )


def test_image_ref_checks_its_box():
    assert ImageRef("a", "a.jpg", (0, 1, 2, 3)).box == (0.0, 1.0, 2.0, 3.0)
    with pytest.raises(InputError, match="y0 < y1"):
        ImageRef("a", "a.jpg", (2, 0, 2, 3))
    with pytest.raises(InputError, match="id must not be empty"):
        ImageRef("", "a.jpg")


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        _local().scores = None


def test_local_features_take_and_empty():
    features = _local()
    assert (len(features), features.dim) == (3, 4)
    assert features.locations.dtype == np.float32
    taken = features.take(features.scores > 0)
    assert taken.locations.tolist() == [[2, 3], [4, 5]]
    assert LocalFeatures.empty(7).descriptors.shape == (0, 7)
    assert len(features.take(np.array([], int))) == 0


def test_local_features_keep_half_precision():
    features = LocalFeatures(np.zeros((1, 2)), np.zeros((1, 3), np.float16), [1], [1])
    assert features.descriptors.dtype == np.float16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"locations": np.zeros((2, 2))}, r"locations must have shape \[3, 2\]"),
        ({"scores": [0, np.inf, 0]}, "scores must be finite"),
        ({"scales": [1, 0, 1]}, "scales must be positive"),
        ({"descriptors": np.zeros(3)}, "descriptors must have shape"),
    ],
)
def test_local_features_refuse(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(_local(), **change)


def test_global_descriptors_must_be_normalised_and_unique():
    assert len(GlobalDescriptors(("a", "b"), np.eye(2))) == 2
    assert GlobalDescriptors((), np.zeros((0, 4))).vectors.shape == (0, 4)
    with pytest.raises(InputError, match="L2 norm 1"):
        GlobalDescriptors(("a",), [[1.0, 1.0]])
    with pytest.raises(InputError, match="unique"):
        GlobalDescriptors(("a", "a"), np.eye(2))


def test_ranking_accepts_short_rows():
    ranking = Ranking(("q",), ("a", "b"), [[1, 0, -1]], [[0.5, 0.4, 0]])
    assert ranking.indices.dtype == np.int64
    assert Ranking((), (), np.zeros((0, 0)), np.zeros((0, 0))).indices.shape == (0, 0)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([[2]], r"-1\.\.1"),
        ([[0, 0]], "once a query"),
        ([[-1, 0]], "end of a row"),
        ([[0.5]], "whole"),
    ],
)
def test_ranking_refuses(indices, message):
    with pytest.raises(InputError, match=message):
        Ranking(("q",), ("a", "b"), indices, np.zeros(np.shape(indices)))


def test_verification_counts_its_inliers():
    matches = np.array([[0, 1], [2, 3]])
    found = Verification(1, np.eye(3), matches, [True, False])
    assert found.inlier_mask.dtype == bool
    with pytest.raises(InputError, match="must count inlier_mask"):
        Verification(2, np.eye(3), matches, [True, False])
    nothing = Verification.none(matches)
    assert nothing.num_inliers == 0
    assert not nothing.transform.any()
    assert Verification.none().matches.shape == (0, 2)


def test_ground_truth_keeps_positives_and_junk_apart():
    truth = GroundTruth(([1, 2], []), ([0], []))
    assert len(truth) == 2
    assert truth.positives[1].dtype == np.int64
    with pytest.raises(InputError, match="both positive and junk"):
        GroundTruth(([1],), ([1],))
    with pytest.raises(InputError, match="same queries"):
        GroundTruth(([1],), ())
