"""The contract of layers and models: serialisation, precision, XLA, shapes, gradients."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from delf_tf import artifacts
from delf_tf.checks import InputError
from delf_tf.models import layers
from delf_tf.models.backbones.inverted_residuals import InvertedResidual, InvertedResiduals
from delf_tf.models.backbones.resnet import Bottleneck, ResNet
from delf_tf.models.backbones.resnet_v2 import FoldedConv, PreactivationUnit
from delf_tf.models.backbones.xfeat import ReliabilityHead
from delf_tf.models.create import create_model
from delf_tf.models.delf import Attention
from delf_tf.models.delg import Autoencoder
from delf_tf.models.dolg import MultiAtrous, SelfAttention
from delf_tf.models.gem import RegionalMaxima
from delf_tf.models.variables import draw_values, variables_by_path
from delf_tf.models.zoo import checkpoint

# Layer, and the channels of its input.
LAYERS = [
    (lambda: layers.Preprocessing("BGR", [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]), 3),
    (lambda: layers.ConvNorm(4, 3, 2, activation="relu6"), 5),
    (lambda: layers.ConvNorm(0, 3, 2, "same", use_bias=True), 5),
    (lambda: layers.GeneralizedMean(2.5, learnable=True), 5),
    (layers.GeneralizedMean, 5),
    (layers.AveragePooling, 5),
    (layers.MaximumPooling, 5),
    (lambda: RegionalMaxima(2), 5),
    (lambda: Bottleneck(4, 16, 2, "keras", project=True), 8),
    (lambda: Bottleneck(4, 16, 1, "torchvision", project=False), 16),
    (lambda: ResNet(50, width_multiplier=0.125, last="stride16"), 3),
    (lambda: InvertedResidual(12, 8, 3, 1, residual=True), 8),
    (lambda: InvertedResidual(0, 8, 5, 2, residual=False, padding="same"), 8),
    (lambda: InvertedResiduals("mobilenet_v2", 0.125), 3),
    (lambda: InvertedResiduals("efficientnet_lite0", 0.125), 3),
    (ReliabilityHead, 64),
    (lambda: FoldedConv(4, 3, 2, relu=True), 5),
    (lambda: PreactivationUnit(4, 1, project=True), 5),
    (lambda: Attention(7), 5),
    (lambda: Autoencoder(3, 5), 5),
    (lambda: MultiAtrous(3, 4), 5),
    (lambda: SelfAttention(4, weighted=False), 5),
]
MODELS = ["gem_mobilenet_v2", "delf_mobilenet_v2", "delg_mobilenet_v2", "dolg_mobilenet_v2"]
NARROW = {"width_multiplier": 0.125}
# Of seed 5, written by stack A.
FINGERPRINT = "e092fd5b4563ee54"
GLOBAL = [0.344243, 0.102307, 0.494381, -0.791591]
FEATURE = [9.364391, 1.814548]


@pytest.fixture
def bfloat16_policy():
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    yield
    tf.keras.mixed_precision.set_global_policy("float32")


def _input(channels, height=11, width=14):
    return np.random.RandomState(0).uniform(0, 1, (2, height, width, channels)).astype(np.float32)


def _images(batch=2, height=64, width=96):
    return np.random.RandomState(0).uniform(0, 255, (batch, height, width, 3)).astype(np.float32)


def _built(make, channels):
    layer = make()
    layer.build((None, None, None, channels))
    draw_values(layer, seed=0)
    return layer


@pytest.mark.parametrize(("make", "channels"), LAYERS)
def test_a_layer_is_rebuilt_from_its_config(make, channels):
    layer = _built(make, channels)
    config = json.loads(json.dumps(layer.get_config()))
    again = type(layer).from_config(config)
    again.build((None, None, None, channels))
    variables = variables_by_path(layer)
    copies = variables_by_path(again)
    assert list(copies) == list(variables)
    for path, variable in variables.items():
        copies[path].assign(variable)
    x = _input(channels)
    for got, wanted in zip(tf.nest.flatten(again(x)), tf.nest.flatten(layer(x))):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("make", "channels"), LAYERS)
def test_build_makes_all_variables(make, channels):
    layer = make()
    layer.build((None, None, None, channels))
    made = set(variables_by_path(layer))
    layer(_input(channels))
    assert set(variables_by_path(layer)) == made


@pytest.mark.parametrize(("make", "channels"), LAYERS)
def test_gradients_reach_every_parameter(make, channels):
    layer = _built(make, channels)
    training = {"training": True} if layer.weights and _takes_training(layer) else {}
    with tf.GradientTape() as tape:
        outputs = tf.nest.flatten(layer(tf.constant(_input(channels)), **training))
        loss = tf.add_n([tf.reduce_sum(output**2) for output in outputs])
    gradients = tape.gradient(loss, layer.trainable_variables)
    assert not [v.name for v, g in zip(layer.trainable_variables, gradients) if g is None]


def _takes_training(layer):
    return any(path.endswith("moving_mean") for path in variables_by_path(layer))


@pytest.mark.parametrize("name", MODELS)
def test_mixed_bfloat16(name, bfloat16_policy):
    model = create_model(name, seed=1, **NARROW)
    assert all(variable.dtype == "float32" for variable in variables_by_path(model).values())
    result = model(_images())
    outputs = model.training_outputs(_images())
    for value in [*result.values(), *outputs.values()]:
        assert value.dtype == tf.float32
        assert np.isfinite(value).all()
    tf.keras.mixed_precision.set_global_policy("float32")
    exact = create_model(name, seed=1, **NARROW)(_images())["global"]
    assert np.sum(exact * result["global"], axis=1).min() > 0.99


@pytest.mark.parametrize("name", ["delg_mobilenet_v2", "dolg_resnet14"])
def test_compiled_and_dynamic_forms_agree(name):
    model = create_model(name, seed=1, **NARROW)
    images = _images(batch=1, height=33, width=43)
    expected = model(images)
    dynamic = tf.function(model, input_signature=[tf.TensorSpec([None, None, None, 3])])
    compiled = tf.function(model, jit_compile=True)
    for function in (dynamic, compiled):
        result = function(tf.constant(images))
        assert set(result) == set(expected)
        for key, value in expected.items():
            np.testing.assert_allclose(result[key], value, rtol=1e-3, atol=1e-3)


def test_integer_images_are_taken():
    model = create_model("gem_mobilenet_v2", seed=1, **NARROW)
    images = _images().astype(np.uint8)
    expected = model(images.astype(np.float32))["global"]
    np.testing.assert_allclose(model(images)["global"], expected, rtol=1e-5, atol=1e-6)


def test_batches_do_not_mix():
    model = create_model("delg_mobilenet_v2", seed=1, **NARROW)
    images = _images(batch=3)
    together = model(images)
    for i in range(3):
        for key, value in model(images[i : i + 1]).items():
            np.testing.assert_allclose(value[0], together[key][i], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_batch_is_described(name):
    model = create_model(name, seed=1, **NARROW)
    result = model(np.zeros((0, 64, 64, 3), np.float32))
    assert result["global"].shape == (0, model.global_dim)


def test_keras_saves_and_loads_a_model(tmp_path):
    model = create_model("delg_mobilenet_v2", seed=1, embedding_dim=4, **NARROW)
    model(_images())
    model.save(tmp_path / "model.keras")
    again = tf.keras.models.load_model(tmp_path / "model.keras")
    for key, value in model(_images()).items():
        np.testing.assert_allclose(again(_images())[key], value, rtol=1e-5, atol=1e-5)


def test_weights_are_the_same_file_on_every_stack(tmp_path):
    model = create_model("delg_mobilenet_v2", seed=5, embedding_dim=4, local_dim=2, **NARROW)
    path = checkpoint.save_weights(model, tmp_path / "w.npz")
    assert artifacts.file_fingerprint(path) == FINGERPRINT


def test_descriptors_are_the_same_on_every_stack():
    model = create_model("delg_mobilenet_v2", seed=5, embedding_dim=4, local_dim=2, **NARROW)
    result = model(_images(batch=1))
    np.testing.assert_allclose(result["global"][0], GLOBAL, atol=1e-5)
    np.testing.assert_allclose(result["features"][0, 1, 2], FEATURE, rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "power", "wanted"), [([0, 0, 0, 4], 3.0, 16 ** (1 / 3)), ([1, 3], 1.0, 2.0)]
)
def test_gem_by_hand(values, power, wanted):
    x = np.array(values, np.float32).reshape(1, 1, -1, 1)
    np.testing.assert_allclose(layers.GeneralizedMean(power)(x), [[wanted]], rtol=1e-5)


def test_preprocessing_by_hand():
    layer = layers.Preprocessing("BGR", [10.0, 20.0, 30.0], [1.0, 2.0, 5.0])
    x = np.array([50, 40, 30], np.float32).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(np.ravel(layer(x)), [20, 10, 4])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channel_order": "GBR"}, "channel_order must be one of RGB, BGR"),
        ({"mean": [1.0, 2.0]}, r"mean must have shape \[3\]"),
        ({"std": [1.0, 0.0, 1.0]}, "std must be positive"),
        ({"std": [1.0, float("nan"), 1.0]}, "std must be finite"),
    ],
)
def test_preprocessing_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        layers.Preprocessing(**arguments)


@pytest.mark.parametrize("kind", ["maximum", ""])
def test_pooling_refuses(kind):
    with pytest.raises(InputError, match="pooling must be one of gem, average, max"):
        layers.create_pooling(kind)


def test_normalised_zeros_stay_zeros():
    np.testing.assert_array_equal(layers.l2_normalize(np.zeros((2, 3))), np.zeros((2, 3)))
