"""Losses of tuples in a batch: each image's share, by hand, and batches that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.training.tuple_losses import descriptor_tuple_loss, superfeature_tuple_loss

# Two tuples of a query, its positive and a negative; lengths do not matter.
BATCH = [[2.0, 0.0], [0.6, 0.8], [5.0, 0.0], [0.0, 1.0], [0.0, 3.0], [0.0, -1.0]]


def test_contrastive_by_hand():
    got = descriptor_tuple_loss(tf.constant(BATCH), 3, margin=0.7)
    first = (0.5 * 0.8 + 0.5 * 0.49) / 3
    np.testing.assert_allclose(got, [first] * 3 + [0.0] * 3, rtol=1e-5)
    np.testing.assert_array_equal(got, descriptor_tuple_loss(tf.constant(BATCH), 3, margin=None))


def test_triplet_by_hand():
    got = descriptor_tuple_loss(tf.constant(BATCH), 3, loss="triplet", margin=0.5)
    np.testing.assert_allclose(got, [(0.8 + 0.5) / 3] * 3 + [0.0] * 3, rtol=1e-5)


def test_pairs_without_negatives():
    got = descriptor_tuple_loss(tf.constant(BATCH[:2]), 2, margin=None)
    np.testing.assert_allclose(got, [0.2, 0.2], rtol=1e-5)


def test_superfeatures_by_hand():
    # Two templates, both of which match; only the first one's negative is nearer than 1.1.
    query = [[1.0, 0.0], [0.0, 1.0]]
    negative = [[0.6, 0.8], [0.0, -1.0]]
    features = tf.constant([query, query, negative])
    got = superfeature_tuple_loss(features, 3)
    expected = 0.5 * (1.1 - np.sqrt(0.8)) ** 2
    np.testing.assert_allclose(got, [expected / 3] * 3, rtol=1e-5)


def test_gradients_are_finite_where_images_coincide():
    for loss in ("contrastive", "triplet"):
        for value in (0.0, 1.0):
            same = tf.fill((4, 3), value)
            with tf.GradientTape() as tape:
                tape.watch(same)
                total = tf.reduce_sum(descriptor_tuple_loss(same, 4, loss=loss, margin=None))
            assert np.isfinite(tape.gradient(total, same)).all()


def test_batches_that_are_not_of_whole_tuples_are_refused():
    with pytest.raises(InputError, match=r"whole tuples.*num_images=6, tuple_size=4"):
        descriptor_tuple_loss(tf.constant(BATCH), 4, margin=None)
    with pytest.raises(InputError, match="whole tuples"):
        superfeature_tuple_loss(tf.zeros([4, 2, 2]), 3)
    with pytest.raises(InputError, match=r"contrastive, triplet.*Did you mean 'triplet'"):
        descriptor_tuple_loss(tf.constant(BATCH), 3, loss="triplets", margin=None)
