"""Super-feature matching and losses, against the authors' outputs and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.models.losses import superfeature_losses as sf


@pytest.fixture(scope="module")
def golden(repository):
    with np.load(repository / "tests/golden/models/superfeature_losses.npz") as archive:
        arrays = dict(archive)
    for name in ("q", "p", "neg"):
        arrays[name] /= np.linalg.norm(arrays[name], axis=-1, keepdims=True)
    return arrays


def test_matches_equal_the_reference(golden):
    matched = sf.match_superfeatures(golden["q"], golden["p"])
    np.testing.assert_array_equal(np.flatnonzero(matched), golden["match_paper_true_lowe"])


def test_matching_a_batch_equals_matching_each(golden):
    query = np.stack([golden["q"], golden["p"]])
    positive = np.stack([golden["p"], golden["neg"][0]])
    together = tf.function(sf.match_superfeatures, jit_compile=True)(query, positive)
    each = [sf.match_superfeatures(q, p) for q, p in zip(query, positive)]
    np.testing.assert_array_equal(together, each)


def test_contrastive_loss_equals_the_reference(golden):
    query, positive, negatives = (golden[k][np.newaxis] for k in ("q", "p", "neg"))
    matched = np.isin(np.arange(query.shape[1]), golden["match_official"])[np.newaxis]
    loss = sf.superfeature_contrastive_loss(query, positive, negatives, matched)
    np.testing.assert_allclose(0.02 * loss[0], golden["superfeature_loss"], rtol=1e-5)


def test_contrastive_loss_by_hand():
    query = tf.constant([[[1.0, 0.0], [0.0, 1.0]]])
    positive = tf.constant([[[0.6, 0.8], [0.0, 1.0]]])
    negatives = tf.constant([[[[1.0, 0.0], [0.0, 1.0]]]])
    first = tf.constant([[True, False]])
    loss = sf.superfeature_contrastive_loss(query, positive, negatives, first)
    np.testing.assert_allclose(loss, [0.5 * 0.8 + 0.5 * 1.1**2], rtol=1e-6)


def test_no_match_costs_nothing_and_has_a_zero_gradient(golden):
    query = tf.constant(golden["q"][np.newaxis])
    with tf.GradientTape() as tape:
        tape.watch(query)
        loss = sf.superfeature_contrastive_loss(
            query, query, query[:, tf.newaxis], tf.zeros((1, 64), tf.bool)
        )
    np.testing.assert_array_equal(loss, [0.0])
    np.testing.assert_array_equal(tape.gradient(loss, query), np.zeros((1, 64, 32)))


def test_decorrelation_equals_the_reference(golden):
    # The authors sum over the images of a tuple.
    loss = sf.attention_decorrelation_loss(tf.constant(golden["att"]))
    assert loss.shape == (3,)
    np.testing.assert_allclose(0.1 * tf.reduce_sum(loss), golden["decorrelation_loss"], rtol=1e-5)


def test_decorrelation_by_hand():
    disjoint = tf.reshape(tf.eye(4), (1, 4, 2, 2))
    same = tf.ones((1, 4, 2, 2))
    loss = sf.attention_decorrelation_loss(tf.concat([disjoint, same], 0))
    np.testing.assert_allclose(loss, [0.0, 1.0], atol=1e-6)


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="at least 2 maps"):
        sf.attention_decorrelation_loss(tf.ones((1, 1, 2, 2)))
