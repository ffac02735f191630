"""Losses of tuples in a batch: each image's share, by hand, and batches that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.training.batch_losses import descriptor_tuple_loss, superfeature_tuple_loss
from delf_tf.training.objective import Objective
from tests.training.tiny_model import TinyModel

# Two tuples of a query, its positive and a negative; lengths do not matter.
BATCH = [[2.0, 0.0], [0.6, 0.8], [5.0, 0.0], [0.0, 1.0], [0.0, 3.0], [0.0, -1.0]]


def test_contrastive_by_hand():
    got = descriptor_tuple_loss(tf.constant(BATCH), 3, margin=0.7)
    first = (0.5 * 0.8 + 0.5 * 0.49) / 3
    np.testing.assert_allclose(got, [first] * 3 + [0.0] * 3, rtol=1e-5)
    np.testing.assert_array_equal(got, descriptor_tuple_loss(tf.constant(BATCH), 3, margin=None))


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
    for value in (0.0, 1.0):
        same = tf.fill((4, 3), value)
        with tf.GradientTape() as tape:
            tape.watch(same)
            total = tf.reduce_sum(descriptor_tuple_loss(same, 4, margin=None))
        assert np.isfinite(tape.gradient(total, same)).all()


def test_batches_that_are_not_of_whole_tuples_are_refused():
    with pytest.raises(InputError, match=r"whole tuples.*num_images=6, tuple_size=4"):
        descriptor_tuple_loss(tf.constant(BATCH), 4, margin=None)
    with pytest.raises(InputError, match="whole tuples"):
        superfeature_tuple_loss(tf.zeros([4, 2, 2]), 3)


class _SuperfeatureModel(TinyModel):
    """Gives two super-features an image: halves of its embedding."""

    def training_outputs(self, images, training=True):
        embedding = super().training_outputs(images, training)["embedding"]
        halves = tf.reshape(embedding, (embedding.shape[0], 2, -1))
        return {"embedding": embedding, "superfeatures": tf.math.l2_normalize(halves, axis=2)}


@pytest.fixture(scope="module")
def model():
    model = _SuperfeatureModel()
    model.record_options("tiny", {})
    model.initialize(seed=0)
    return model


def _images():
    return tf.constant(np.random.RandomState(0).uniform(0, 255, (6, 16, 16, 3)), tf.float32)


def test_an_objective_goes_by_tuples(model):
    weights = {"descriptor": 0.0, "superfeature": 0.02, "tuple": 2.0}
    objective = Objective(model, 4, weights=weights, tuple_size=3, tuple_margin=0.3)
    assert objective.weights == {"superfeature": 0.02, "tuple": 2.0}
    outputs = model.training_outputs(_images(), training=True)
    losses, correct = objective(_images(), tf.zeros(6, tf.int64))
    expected = descriptor_tuple_loss(outputs["embedding"], 3, margin=0.3)
    np.testing.assert_allclose(losses["tuple"], expected, rtol=1e-4, atol=1e-6)
    expected = superfeature_tuple_loss(outputs["superfeatures"], 3)
    np.testing.assert_allclose(losses["superfeature"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(correct, np.zeros(6))
    # Of weight 0, super-features alone learn from the tuples; without tuples there is no such loss.
    without = Objective(model, 4, weights={**weights, "tuple": 0.0}, tuple_size=3)
    assert list(without.weights) == ["superfeature"]
    assert "tuple" not in Objective(model, 4).weights


def test_objectives_refuse_what_tuples_cannot_be(model):
    with pytest.raises(InputError, match="margin must be positive"):
        Objective(model, 4, tuple_size=3, tuple_margin=0.0)
    objective = Objective(model, 4, tuple_size=4)
    with pytest.raises(InputError, match="whole tuples"):
        objective(_images(), tf.zeros(6, tf.int64))


def test_losses_and_gradients_compile_whole():
    random = np.random.RandomState(1)
    embeddings = tf.constant(random.standard_normal((6, 4)), tf.float32)
    features = tf.math.l2_normalize(random.standard_normal((6, 5, 4)).astype(np.float32), axis=2)

    def step(embeddings, features):
        with tf.GradientTape() as tape:
            tape.watch([embeddings, features])
            total = tf.add_n(
                [
                    tf.reduce_sum(descriptor_tuple_loss(embeddings, 3, margin=1.5)),
                    tf.reduce_sum(superfeature_tuple_loss(features, 3)),
                ]
            )
        return total, tape.gradient(total, [embeddings, features])

    total, gradients = tf.function(step, jit_compile=True)(embeddings, features)
    expected, by_hand = step(embeddings, features)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    for got, want in zip(gradients, by_hand):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
