"""Margins and losses: against the reference programs, by hand, and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.datasets.input import addons
from delf_tf.models.losses import functions as losses


@pytest.fixture(scope="module")
def heads(repository):
    with np.load(repository / "tests/golden/models/heads.npz") as archive:
        return dict(archive)


def _unit(rng, *shape):
    x = rng.standard_normal(shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_softmax_cross_entropy_by_hand():
    loss = losses.softmax_cross_entropy(tf.constant([1, 0]), tf.constant([[0.0, 0.0], [3.0, 0.0]]))
    np.testing.assert_allclose(loss, [math.log(2), math.log(1 + math.exp(-3))], rtol=1e-6)
    assert losses.softmax_cross_entropy(tf.zeros(0, tf.int32), tf.zeros((0, 5))).shape == (0,)
    half = losses.softmax_cross_entropy(tf.constant([1]), tf.zeros((1, 4), tf.bfloat16))
    assert half.dtype == tf.float32


def test_reconstruction_loss_moves_the_reconstruction_only():
    features, rebuilt = tf.ones((2, 1, 2, 3)), tf.fill((2, 1, 2, 3), 3.0)
    with tf.GradientTape() as tape:
        tape.watch([features, rebuilt])
        loss = losses.reconstruction_loss(features, rebuilt)
    np.testing.assert_allclose(loss, [4.0, 4.0])
    to_features, to_rebuilt = tape.gradient(loss, [features, rebuilt])
    assert to_features is None
    np.testing.assert_allclose(to_rebuilt, np.full((2, 1, 2, 3), 2 * 2 / 6), rtol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.3])
def test_arcface_equals_the_original(heads, margin):
    prelogits, centres = heads["prelogits"], heads["cosine_weights"]
    cosines = (prelogits / np.linalg.norm(prelogits, axis=1, keepdims=True)) @ (
        centres / np.linalg.norm(centres, axis=0)
    )
    got = losses.arcface_logits(cosines, heads["labels"], margin, 45.25)
    np.testing.assert_allclose(got, heads[f"logits_m{margin}_train1"], atol=2e-5)


@pytest.mark.parametrize(("margin", "name"), [(0.1, "arc_m01"), (0.5, "arc_m05")])
def test_arcface_leaves_large_angles_as_the_original_does(heads, margin, name):
    cosines = heads["arc_cos"][0]
    every = tf.tile(cosines[np.newaxis], (len(cosines), 1))
    got = np.diag(losses.arcface_logits(every, tf.range(len(cosines)), margin, 1.0))
    np.testing.assert_allclose(got, heads[name][0], atol=1e-6)


def test_arcface_gradient_is_finite_at_the_ends():
    cosines = tf.constant([[1.0, -1.0, 1.0000001], [0.2, -1.0, 0.999999]])
    for label in range(3):
        with tf.GradientTape() as tape:
            tape.watch(cosines)
            loss = tf.reduce_sum(losses.arcface_logits(cosines, tf.fill((2,), label), 0.5))
        assert np.isfinite(loss)
        assert np.isfinite(tape.gradient(loss, cosines)).all()


def test_arcface_computes_in_float32():
    got = losses.arcface_logits(tf.constant([[0.5, 0.25]], tf.bfloat16), tf.constant([0]), 0.1, 10)
    assert got.dtype == tf.float32
    np.testing.assert_allclose(got, [[10 * math.cos(math.pi / 3 + 0.1), 2.5]], rtol=1e-6)


@pytest.mark.parametrize("bad", [{"margin": -0.1}, {"margin": 3.2}, {"scale": 0.0}])
@pytest.mark.parametrize("function", [losses.arcface_logits, losses.curricularface_logits])
def test_margins_out_of_range_are_refused(function, bad):
    extra = {"difficulty": 0.0} if function is losses.curricularface_logits else {}
    with pytest.raises(InputError, match=next(iter(bad))):
        function(tf.zeros((1, 2)), tf.constant([0]), **extra, **bad)


def test_curricularface_by_hand():
    # True angle 60 degrees, margin 0.15: cos = 0.4195; 0.45 is hard, 0.3 is not.
    got = losses.curricularface_logits(tf.constant([[0.5, 0.45, 0.3]]), tf.constant([0]), 0.2)
    true = math.cos(math.pi / 3 + 0.15)
    np.testing.assert_allclose(got, [[30 * true, 30 * 0.45 * 0.65, 9.0]], rtol=1e-5)
    far = losses.curricularface_logits(tf.constant([[-0.995, 0.0]]), tf.constant([0]), 0.0)
    np.testing.assert_allclose(far[0, 0], 30 * (-0.995 - 0.15 * math.sin(0.15)), rtol=1e-5)


def test_contrastive_loss_by_hand():
    query, positive = tf.constant([[1.0, 0.0]]), tf.constant([[0.6, 0.8]])
    negatives = tf.constant([[[1.0, 0.0], [0.0, 1.0]]])
    got = losses.contrastive_loss(query, positive, negatives, margin=0.7)
    np.testing.assert_allclose(got, [0.5 * 0.8 + 0.5 * 0.49], rtol=1e-6)
    none = losses.contrastive_loss(query, positive, tf.zeros((1, 0, 2)))
    np.testing.assert_allclose(none, [0.4], rtol=1e-6)


def test_losses_are_zero_where_margins_are_kept():
    query, positive = tf.constant([[1.0, 0.0]]), tf.constant([[1.0, 0.0]])
    far = tf.constant([[[-1.0, 0.0], [0.0, 1.0]]])
    assert losses.contrastive_loss(query, positive, far).numpy() == [0.0]


def test_gradient_steps_part_positives_from_negatives():
    loss = losses.contrastive_loss
    rng = np.random.default_rng(2)
    start = tf.constant(_unit(rng, 4, 4, 8))

    def distances(x):
        gaps = x[:, 1:] - x[:, :1]
        return tf.reduce_mean(tf.norm(gaps, axis=2), axis=0).numpy()

    x = tf.Variable(start)
    for _ in range(50):
        with tf.GradientTape() as tape:
            unit = tf.math.l2_normalize(x, axis=2)
            value = tf.reduce_sum(loss(unit[:, 0], unit[:, 1], unit[:, 2:], margin=1.2))
        x.assign_sub(0.2 * tape.gradient(value, x))
    to_positive, *to_negatives = distances(tf.math.l2_normalize(x, axis=2))
    assert to_positive < 0.7 * distances(start)[0]
    assert to_positive < 0.7 * min(to_negatives)


def test_tuple_losses_have_gradients_where_images_coincide():
    loss = losses.contrastive_loss
    same = tf.ones((2, 3))
    with tf.GradientTape() as tape:
        tape.watch(same)
        value = loss(same, same, tf.tile(same[:, tf.newaxis], (1, 2, 1)))
    assert np.isfinite(tape.gradient(value, same)).all()
    with pytest.raises(InputError, match="margin"):
        loss(same, same, tf.ones((2, 1, 3)), margin=0.0)


@pytest.mark.skipif(
    addons.tensorflow_addons() is None, reason="tensorflow-addons exists for stack A only"
)
def test_losses_equal_tensorflow_addons():
    tfa = addons.tensorflow_addons()
    rng = np.random.default_rng(0)
    query, positive, negatives = _unit(rng, 5, 8), _unit(rng, 5, 8), _unit(rng, 5, 1, 8)
    ours = losses.contrastive_loss(query, positive, negatives, margin=1.2)
    pulled = np.linalg.norm(query - positive, axis=1)
    pushed = np.linalg.norm(query - negatives[:, 0], axis=1)
    both = [
        tfa.losses.contrastive_loss(np.full(5, truth, np.float32), distance, margin=1.2)
        for truth, distance in ((1, pulled), (0, pushed))
    ]
    np.testing.assert_allclose(ours, 0.5 * (both[0] + both[1]), rtol=1e-5)
