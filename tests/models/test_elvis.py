"""The Keras layer against the published architecture, written in PyTorch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.models.similarity.elvis import Elvis
from delf_tf.models.variables import variables_by_path


@pytest.fixture
def golden(golden_dir):
    with np.load(golden_dir / "models/elvis.npz") as arrays:
        return dict(arrays)


def _layer(golden):
    layer = Elvis(16, 32)
    layer.initialize(seed=0)
    for name, variable in variables_by_path(layer).items():
        variable.assign(golden[f"weights.{name}"])
    return layer


def test_the_reference_gives_the_same(golden):
    layer = _layer(golden)
    similarity = layer(golden["pairs"])
    np.testing.assert_allclose(similarity, golden["similarity"], rtol=1e-5)
    np.testing.assert_allclose(layer.logit(similarity), golden["logit"], rtol=1e-4)


def test_padding_changes_nothing(golden):
    layer = _layer(golden)
    longer = np.pad(golden["pairs"], [(0, 0), (0, 0), (0, 7), (0, 0)])
    np.testing.assert_allclose(layer(longer), golden["similarity"], rtol=1e-5)
    # No feature at all, on one side and on both.
    alone = golden["pairs"] * np.array([0.0, 1.0])[:, None, None]
    assert np.isfinite(layer(alone)).all()
    assert np.abs(layer(np.zeros((1, 2, 3, 16), np.float32))).max() == 0


def test_every_weight_learns(golden):
    layer = _layer(golden)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer.logit(layer(golden["pairs"])))
    gradients = tape.gradient(loss, list(variables_by_path(layer).values()))
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("seed", range(5))
def test_training_begins_with_rising_votes_and_small_logits(seed):
    random = np.random.default_rng(seed)
    first, other = random.standard_normal((2, 300, 64)).astype(np.float32)
    same = first + 0.3 * random.standard_normal(first.shape).astype(np.float32)
    layer = Elvis(64)
    layer.initialize(seed)
    logits = layer.logit(layer(np.stack([[first, same], [first, other]]))).numpy()
    assert logits[0] > logits[1]
    assert np.abs(logits).max() < 20


def test_bfloat16_activations(golden):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        similarity = _layer(golden)(golden["pairs"])
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert similarity.dtype == tf.float32
    np.testing.assert_allclose(similarity, golden["similarity"], rtol=0.05)


def test_it_is_made_again_from_its_config():
    layer = Elvis(16, 32, num_iterations=3, temperature=0.2)
    assert Elvis.from_config(layer.get_config()).options == layer.options
    with pytest.raises(InputError, match="must be positive"):
        Elvis(temperature=0)
