"""The Keras layer against the published architecture, written in PyTorch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.models.similarity import create
from delf_tf.models.similarity.ames import Ames
from delf_tf.models.variables import variables_by_path
from delf_tf.models.zoo import checkpoint

BITS = {"teacher": 0, "student": 24}


@pytest.fixture
def golden(golden_dir):
    with np.load(golden_dir / "models/ames.npz") as arrays:
        return dict(arrays)


def _layer(golden, form):
    layer = Ames(16, width=16, num_layers=2, hidden_dim=24, num_bits=BITS[form])
    layer.initialize(seed=0)
    for name, variable in variables_by_path(layer).items():
        variable.assign(golden[f"{form}.{name}"])
    return layer


@pytest.mark.parametrize("form", BITS)
def test_the_reference_gives_the_same(golden, form):
    layer = _layer(golden, form)
    similarity = layer(golden["pairs"])
    np.testing.assert_allclose(similarity, golden[form], rtol=1e-5)
    np.testing.assert_array_equal(layer.logit(similarity), similarity)


def test_the_student_learns_by_a_slope(golden):
    similarity = _layer(golden, "student")(golden["pairs"], training=True)
    np.testing.assert_allclose(similarity, golden["student_training"], rtol=1e-5)


@pytest.mark.parametrize("form", BITS)
def test_padding_and_the_order_of_images_change_nothing(golden, form):
    layer = _layer(golden, form)
    longer = np.pad(golden["pairs"], [(0, 0), (0, 0), (0, 7), (0, 0)])
    np.testing.assert_allclose(layer(longer), golden[form], rtol=1e-5)
    np.testing.assert_allclose(layer(longer[:, ::-1]), golden[form], rtol=1e-5)
    assert np.isfinite(layer(np.zeros((1, 2, 3, 16), np.float32))).all()


def test_every_weight_learns(golden):
    layer = _layer(golden, "student")
    variables = variables_by_path(layer)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(golden["pairs"], training=True))
    for path, gradient in zip(variables, tape.gradient(loss, list(variables.values()))):
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path


def test_bfloat16_activations(golden):
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        similarity = _layer(golden, "teacher")(golden["pairs"])
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert similarity.dtype == tf.float32
    np.testing.assert_allclose(similarity, golden["teacher"], rtol=0.05)


def test_a_file_gives_the_trained_layer(golden, tmp_path):
    layer = _layer(golden, "student")
    path = checkpoint.save_weights(layer, tmp_path / "w.npz")
    np.testing.assert_array_equal(create.load(path)(golden["pairs"]), layer(golden["pairs"]))
    assert Ames.from_config(layer.get_config()).options == layer.options
    options = {**layer.options, "kwargs": {"none": 3}}
    checkpoint.write_arrays(path, {}, options)
    with pytest.raises(InputError, match="similarity"):
        create.load(path)
    with pytest.raises(InputError, match="divide"):
        Ames(width=10, num_heads=3)


def test_weights_are_drawn_small():
    layer = create.create("ames_student", 32, seed=1)
    drawn = {path: np.asarray(one) for path, one in variables_by_path(layer).items()}
    assert layer.options["kwargs"]["num_bits"] == drawn["code.kernel"].shape[1] == 128
    for path in ("token", "projection.kernel", "block1.hidden.kernel"):
        assert 0.015 < drawn[path].std() < 0.025, path
