"""DOLG: fusion by hand, ablations, gradients; the authors' numbers are in test_dolg_parity."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.models.create import create_model
from delf_tf.models.dolg import Dolg, MultiAtrous, SelfAttention
from delf_tf.models.variables import draw_values


def _narrow(**kwargs):
    return create_model(
        "dolg_mobilenet_v2", seed=1, width_multiplier=0.125, fusion_dim=8, embedding_dim=6, **kwargs
    )


def _images():
    return np.random.RandomState(0).uniform(0, 255, (2, 64, 96, 3)).astype(np.float32)


@pytest.mark.parametrize("fusion", ["orthogonal", "concatenation", "hadamard"])
@pytest.mark.parametrize("local_pooling", ["average", "gem"])
def test_ablations(fusion, local_pooling):
    model = _narrow(
        fusion=fusion,
        local_pooling=local_pooling,
        global_pooling="average",
        multi_atrous=False,
        self_attention=False,
    )
    descriptors = model(_images())["global"].numpy()
    assert descriptors.shape == (2, 6)
    assert np.isfinite(descriptors).all()
    paths = [variable.name for variable in model.self_attention.weights]
    assert not any("score" in path for path in paths)


def test_fusion_by_hand():
    # g = (0, 2); cells (1, 1) and (3, 5): parts orthogonal to g are (1, 0) and (3, 0), mean (2, 0).
    local = tf.constant([[[[1.0, 1.0], [3.0, 5.0]]]])
    g = tf.constant([[0.0, 2.0]])
    wanted = {
        "orthogonal": [[0, 2, 2, 0]],
        "concatenation": [[0, 2, 2, 3]],
        "hadamard": [[0, 6]],
    }
    for fusion, fused in wanted.items():
        model = Dolg("mobilenet_v2", width_multiplier=0.125, fusion_dim=2, fusion=fusion)
        np.testing.assert_allclose(model.fuse(local, g), fused, atol=1e-6)


def test_gem_of_the_fused_map_by_hand():
    model = Dolg("mobilenet_v2", width_multiplier=0.125, fusion_dim=2, local_pooling="gem")
    local, g = tf.constant([[[[1.0, 1.0], [3.0, 5.0]]]]), tf.constant([[0.0, 2.0]])
    # ((1^3 + 3^3) / 2)^(1/3) = 14^(1/3)
    np.testing.assert_allclose(model.fuse(local, g), [[0, 2, 14 ** (1 / 3), 1e-6]], rtol=1e-5)


@pytest.mark.parametrize(
    ("embedding_dim", "fusion", "width"),
    [(0, "orthogonal", 16), (0, "hadamard", 8), (5, "orthogonal", 5)],
)
def test_global_dim(embedding_dim, fusion, width):
    model = create_model(
        "dolg_mobilenet_v2",
        width_multiplier=0.125,
        fusion_dim=8,
        embedding_dim=embedding_dim,
        fusion=fusion,
    )
    assert model.global_dim == width
    assert model(_images())["global"].shape == (2, width)


def test_training_outputs_reach_every_parameter():
    model = _narrow()
    with tf.GradientTape() as tape:
        embedding = model.training_outputs(_images())["embedding"]
        loss = tf.reduce_sum(embedding**2)
    assert embedding.shape == (2, 6)
    gradients = tape.gradient(loss, model.trainable_variables)
    missing = [v.name for v, g in zip(model.trainable_variables, gradients) if g is None]
    assert not missing


def test_attention_weighs_unit_features():
    layer = SelfAttention(4)
    layer.build((None, None, None, 7))
    draw_values(layer, seed=0)
    weighted, attention = layer(np.random.RandomState(0).standard_normal((1, 3, 5, 7)))
    assert np.std(attention) > 0
    np.testing.assert_allclose(np.linalg.norm(weighted, axis=-1), attention, rtol=1e-5)


def test_multi_atrous_keeps_the_size_of_the_map():
    layer = MultiAtrous(3, 5)
    assert layer(np.zeros((1, 1, 1, 4), np.float32)).shape == (1, 1, 1, 5)
    assert layer(np.zeros((2, 40, 3, 4), np.float32)).shape == (2, 40, 3, 5)
