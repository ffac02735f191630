"""DELF and DELG: the original's numbers, the wall, the steps of training, what is computed."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.models.create import create_model
from delf_tf.models.delf import Attention, attention_pool
from delf_tf.models.delg import Autoencoder
from delf_tf.models.layers import GeneralizedMean
from delf_tf.models.variables import variables_by_path

NARROW = {"width_multiplier": 0.125}


def _images(batch=2, height=64, width=96):
    return np.random.RandomState(0).uniform(0, 255, (batch, height, width, 3)).astype(np.float32)


def _close(got, wanted):
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert got.shape == wanted.shape
    assert np.linalg.norm(got - wanted) <= 1e-4 * np.linalg.norm(wanted)


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "delf" / "model" / "attention_autoencoder.npz")


def test_attention_equals_the_original(golden):
    # The inputs, of 1024 channels, lie in 40 dimensions: in a basis of these, weights are few.
    layer = Attention()
    x = golden["x"].astype(np.float32)
    layer.build((None, None, None, 40))
    names = {
        "hidden.conv": "attn_conv1",
        "hidden.norm": "bn_conv1",
        "score": "attn_conv2",
    }
    for path, variable in variables_by_path(layer).items():
        ours, leaf = path.rsplit(".", 1)
        variable.assign(golden[f"att.attention.{names[ours]}.{leaf}"].astype(np.float32))
    scores = layer(x)
    _close(scores, golden["prob"][..., 0])
    _close(attention_pool(x, scores), golden["pooled"])


def test_autoencoder_equals_the_original(golden):
    layer = Autoencoder(128, 40)
    layer.build((None, None, None, 40))
    names = {"encoder": "autoenc_conv1", "decoder": "autoenc_conv2"}
    for path, variable in variables_by_path(layer).items():
        ours, leaf = path.rsplit(".", 1)
        variable.assign(golden[f"ae.autoencoder.{names[ours]}.{leaf}"].astype(np.float32))
    reduced, rebuilt = layer(golden["x"].astype(np.float32))
    _close(reduced, golden["reduced"])
    _close(rebuilt, golden["expanded"])


@pytest.mark.parametrize("power", [1.0, 3.0, 4.5])
def test_gem_equals_the_original(golden_dir, power):
    with np.load(golden_dir / "models" / "heads.npz") as heads:
        _close(GeneralizedMean(power)(heads["fmap"]), heads[f"gem_p{power}"])


@pytest.mark.slow
def test_has_the_originals_number_of_parameters():
    model = create_model("delg_resnet50", backbone_form="keras", seed=0)
    assert model.count_params() == 28_574_721
    assert model.preprocess.options() == {
        "channel_order": "RGB",
        "mean": [128.0] * 3,
        "std": [128.0] * 3,
    }


def test_training_outputs():
    model = create_model("delg_mobilenet_v2", seed=1, embedding_dim=5, local_dim=3, **NARROW)
    outputs = model.training_outputs(_images())
    channels = model.backbone.channels("stride16")
    shapes = {key: tuple(value.shape) for key, value in outputs.items()}
    assert shapes == {
        "embedding": (2, 5),
        "features": (2, 4, 6, 3),
        "scores": (2, 4, 6),
        "attention_pooled": (2, channels),
        "reconstruction": (2, 4, 6, channels),
        "reconstruction_target": (2, 4, 6, channels),
    }


def test_without_an_autoencoder_there_is_no_reconstruction():
    model = create_model("delg_mobilenet_v2", seed=1, local_dim=0, embedding_dim=0, **NARROW)
    outputs = model.training_outputs(_images())
    assert set(outputs) == {"embedding", "features", "scores", "attention_pooled"}
    assert model.global_dim == model.backbone.channels("stride32")
    assert model.local_dim == model.backbone.channels("stride16")


@pytest.mark.parametrize("name", ["delf_mobilenet_v2", "delg_mobilenet_v2"])
def test_no_local_gradient_passes_the_wall(name):
    model = create_model(name, seed=1, **NARROW)
    with tf.GradientTape() as tape:
        outputs = model.training_outputs(_images())
        loss = tf.reduce_sum(outputs["attention_pooled"] ** 2)
        if "reconstruction" in outputs:
            loss += tf.reduce_sum(outputs["reconstruction"] ** 2)
    variables = variables_by_path(model)
    gradients = tape.gradient(loss, dict(variables))
    reached = {path for path, gradient in gradients.items() if gradient is not None}
    assert not [path for path in reached if path.startswith(("backbone", "whitening"))]
    trainable = {id(variable) for variable in model.trainable_variables}
    heads = {
        path
        for path, variable in variables.items()
        if path.startswith(("attention", "autoencoder")) and id(variable) in trainable
    }
    assert reached == heads


def test_every_parameter_gets_a_gradient():
    model = create_model("delg_mobilenet_v2", seed=1, **NARROW)
    with tf.GradientTape() as tape:
        outputs = model.training_outputs(_images())
        losses = [outputs["embedding"], outputs["attention_pooled"], outputs["reconstruction"]]
        # Random weights: a descriptor's squares alone sum to 1 whatever the parameters are.
        rng = np.random.RandomState(0)
        loss = tf.add_n([tf.reduce_sum(x * rng.standard_normal(x.shape)) for x in losses])
    variables = variables_by_path(model)
    gradients = tape.gradient(loss, dict(variables))
    trainable = {id(variable) for variable in model.trainable_variables}
    norms = {
        path: float(tf.norm(gradients[path]))
        for path, variable in variables.items()
        if id(variable) in trainable
    }
    # The batch norm behind it takes the mean, and so this bias, away.
    assert norms.pop("attention.hidden.conv.bias") < 1e-6
    assert len(norms) > 100
    assert not [path for path, norm in norms.items() if norm < 1e-6]


def test_the_two_steps_of_delf():
    model = create_model("delf_mobilenet_v2", seed=1, **NARROW)
    assert set(model.training_outputs(_images(), step="descriptor")) == {"embedding"}
    before = {
        path: np.asarray(variable).copy()
        for path, variable in variables_by_path(model).items()
        if path.startswith("backbone")
    }
    outputs = model.training_outputs(_images(), step="attention")
    assert set(outputs) == {"features", "scores", "attention_pooled"}
    # The frozen backbone's moving statistics stay, and its features are those of extraction.
    for path, variable in variables_by_path(model).items():
        if path.startswith("backbone"):
            np.testing.assert_array_equal(variable, before[path])
    features = model(_images(), outputs=("local",))["features"]
    np.testing.assert_allclose(outputs["features"], features, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="step must be one of descriptor, attention, joint"):
        model.training_outputs(_images(), step="both")


def test_reconstruction_target_is_behind_the_wall():
    model = create_model("delg_mobilenet_v2", seed=1, **NARROW)
    with tf.GradientTape() as tape:
        target = tf.reduce_sum(model.training_outputs(_images())["reconstruction_target"])
    assert all(g is None for g in tape.gradient(target, model.trainable_variables))


def test_stage_5_runs_only_for_the_global_descriptor():
    model = create_model("delg_mobilenet_v2", seed=1, **NARROW)

    def count(outputs):
        function = tf.function(lambda x: model(x, outputs=outputs))
        graph = function.get_concrete_function(tf.TensorSpec([1, 64, 64, 3])).graph
        return sum(op.type in ("Conv2D", "DepthwiseConv2dNative") for op in graph.get_operations())

    both, local, only_global = count(("global", "local")), count(("local",)), count(("global",))
    assert local < only_global < both
    # Blocks 13 to 16 after their first expansion, and the last convolution: 2 + 3 * 3 + 1.
    assert both - local == 12


def test_attention_pool_by_hand():
    features = np.array([[[[3.0, 4.0], [0.0, 2.0]]]], np.float32)
    scores = np.array([[[2.0, 1.0]]], np.float32)
    # ((0.6, 0.8) * 2 + (0, 1) * 1) / 2
    np.testing.assert_allclose(attention_pool(features, scores), [[0.6, 1.3]], rtol=1e-6)
