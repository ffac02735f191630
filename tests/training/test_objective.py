from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.training.batch_losses import supervised_contrastive_loss
from delf_tf.training.objective import Objective
from tests.training.tiny_model import TinyModel


@pytest.fixture(scope="module")
def model():
    model = TinyModel()
    model.record_options("tiny", {})
    model.initialize(seed=0)
    return model


def _images(num=4):
    return tf.constant(np.random.RandomState(0).uniform(0, 255, (num, 16, 16, 3)), tf.float32)


def test_losses_are_one_an_image(model):
    objective = Objective(model, 5, weights={"contrastive": 0.5})
    losses, correct = objective(_images(), tf.constant([0, 1, 1, 4]))
    assert objective.weights == {
        "descriptor": 1.0,
        "attention": 1.0,
        "reconstruction": 10.0,
        "contrastive": 0.5,
    }
    assert set(losses) == set(objective.weights)
    for loss in losses.values():
        assert loss.shape == (4,)
        assert np.isfinite(loss).all()
    assert set(np.unique(correct)) <= {0.0, 1.0}


def test_class_centres_follow_the_seed(model):
    one, same, other = (Objective(model, 5, seed=seed).variables for seed in (1, 1, 2))
    name = "heads/descriptor/class_centres"
    np.testing.assert_array_equal(one[name], same[name])
    assert np.abs(one[name] - other[name]).max() > 0.01


def test_losses_of_weight_zero_are_not_computed(model):
    objective = Objective(model, 5, weights={"attention": 0.0, "reconstruction": 0.0})
    assert list(objective.weights) == ["descriptor"]
    assert list(objective.heads) == ["descriptor"]


def test_accuracy_ignores_the_margin(model):
    objective = Objective(model, 3, margin=3.0, scale=10.0)
    labels = tf.constant([2, 2])
    pooled = model.training_outputs(_images(2), training=True)["embedding"]
    centres = objective.heads["descriptor"].class_centres
    mean = tf.reduce_mean(tf.math.l2_normalize(pooled, axis=1), axis=0)
    centres.assign(tf.stack([-mean, -mean + 1e-3, mean]))
    _, correct = objective(_images(2), labels)
    np.testing.assert_array_equal(correct, [1.0, 1.0])


def test_steps_are_for_delf_alone(model):
    with pytest.raises(InputError, match="trained in steps"):
        Objective(model, 3, step="attention")


def test_contrastive_loss_by_hand():
    # Cosines of 0.6 and 0.8 to the first image and 0.96 to each other, over a temperature of 0.1.
    embeddings = tf.constant([[2.0, 0.0], [3.0, 4.0], [0.8, 0.6]])
    loss = supervised_contrastive_loss(embeddings, tf.constant([7, 5, 5]))
    found = [-np.log(np.exp(9.6) / (np.exp(9.6) + np.exp(other))) for other in (6.0, 8.0)]
    np.testing.assert_allclose(loss, [0.0, *found], rtol=1e-4)


def test_contrastive_loss_without_pairs_is_zero_with_finite_gradient():
    embeddings = tf.Variable(tf.zeros([2, 3]))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(supervised_contrastive_loss(embeddings, tf.constant([0, 1])))
    assert loss.numpy() == 0
    np.testing.assert_array_equal(tape.gradient(loss, embeddings), np.zeros((2, 3)))
