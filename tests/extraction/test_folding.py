from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf import create_model
from delf_tf.checks import InputError
from delf_tf.extraction import folding
from delf_tf.extraction.extractor import Extractor
from delf_tf.models import create
from delf_tf.models.layers import ConvNorm
from delf_tf.models.variables import variables_by_path
from delf_tf.models.zoo.checkpoint import save_weights
from tests.extraction.toy import ToyModel, coordinates_image

SMALL = {"width_multiplier": 0.25}
FAMILIES = {
    "gem_mobilenet_v2": SMALL,
    "delg_efficientnet_lite0": SMALL,
    "gem_resnet50_v2": {},
    "delf_resnet50": SMALL,
    "delg_resnet50": {**SMALL, "backbone_form": "keras"},
    "dolg_resnet50": {**SMALL, "fusion_dim": 64},
    "superfeatures_mobilenet_v2": SMALL,
}


def _trained(name, **options):
    """A model whose normalisations differ from the identity, as training leaves them."""
    model = create_model(name, seed=0, **options)
    random = np.random.RandomState(0)
    for path, variable in variables_by_path(model).items():
        shape = tuple(variable.shape)
        leaf = path.rsplit(".", 1)[-1]
        if leaf in ("gamma", "moving_variance"):
            variable.assign(random.uniform(0.8, 1.2, shape))
        elif leaf in ("beta", "moving_mean", "bias"):
            variable.assign(random.normal(0, 0.1, shape))
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return _trained(request.param, **FAMILIES[request.param])


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(1).uniform(0, 255, (1, 97, 130, 3)).astype(np.float32)


def _unit(values):
    values = np.asarray(values)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_folded_descriptors_equal_the_plain_ones(model, images):
    plain, folded = model(images), folding.inference_copy(model)(images)
    assert set(plain) == set(folded)
    for name in plain:
        if name in ("global", "features", "superfeatures"):
            np.testing.assert_allclose(_unit(folded[name]), _unit(plain[name]), atol=1e-5)
        else:
            np.testing.assert_allclose(folded[name], plain[name], rtol=1e-4, atol=1e-6)


def test_nothing_is_left_to_fold(model):
    copy = folding.inference_copy(model)
    assert not [path for path in variables_by_path(copy) if "moving_" in path or ".norm." in path]
    assert copy.options == model.options


def test_bfloat16_is_near_and_gives_float32(model, images):
    plain, copy = model(images), folding.inference_copy(model, "bfloat16")
    assert "bfloat16" in {tf.as_dtype(variable.dtype).name for variable in copy.weights}
    for name, values in copy(images).items():
        assert values.dtype == tf.float32
        if name == "global":
            assert np.sum(_unit(values) * _unit(plain[name])) > 0.99
    assert tf.keras.mixed_precision.global_policy().name == "float32"


def test_stem_scores_and_vectors_stay_in_float32_in_bfloat16():
    model = _trained("delg_mobilenet_v2", **SMALL)
    variables = variables_by_path(folding.inference_copy(model, "bfloat16"))
    names = {path: tf.as_dtype(variable.dtype).name for path, variable in variables.items()}
    assert names["attention.score.kernel"] == "float32"
    assert names["whitening.kernel"] == "float32"
    assert names["attention.hidden.kernel"] == "bfloat16"
    assert names["backbone.stem.kernel"] == "float32"
    assert names["backbone.block1.expand.kernel"] == "bfloat16"


def test_the_copy_is_independent():
    model = _trained("gem_mobilenet_v2", **SMALL)
    copy = folding.inference_copy(model)
    image = np.full((1, 32, 32, 3), 100, np.float32)
    before = copy(image)["global"].numpy()
    for variable in model.weights:
        variable.assign(tf.zeros_like(variable))
    np.testing.assert_array_equal(copy(image)["global"].numpy(), before)


def test_folding_by_hand():
    """One channel, y = (2 x - 1) * 3 / sqrt(3 + 1) + 5 = 3 x + 3.5."""
    layer = ConvNorm(1, epsilon=1.0)
    layer.build((None, None, None, 1))
    layer.conv.set_weights([np.full((1, 1, 1, 1), 2.0)])
    layer.norm.set_weights([np.array([value]) for value in (3.0, 5.0, 1.0, 3.0)])

    class Holder(tf.keras.layers.Layer):
        def __init__(self, one):
            super().__init__()
            self.one = one

    values = {path: v.numpy() for path, v in variables_by_path(Holder(layer)).items()}
    folded = folding._folded_values(values, {"one": layer})
    assert folded["one.kernel"].item() == pytest.approx(3.0)
    assert folded["one.bias"].item() == pytest.approx(3.5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_from_a_file_is_the_copy_of_the_network(tmp_path, images, precision):
    model = _trained("delg_mobilenet_v2", **SMALL)
    stored = create.read_model("delg_mobilenet_v2", save_weights(model, tmp_path / "w.npz"))
    network = folding.inference_network(*stored, precision)
    want = folding.inference_copy(model, precision)(images)
    assert network.options == model.options
    for name, value in network(images).items():
        np.testing.assert_array_equal(value, want[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda values: values.pop("backbone.stem.conv.kernel"),
            "missing: backbone.stem.conv.kernel",
        ),
        (lambda values: values.pop("backbone.stem.norm.beta"), "missing: backbone.stem.norm.beta"),
        (lambda values: values.update({"attention.more": np.zeros(1)}), "extra: attention.more"),
        (
            lambda values: values.update({"backbone.stem.conv.kernel": np.zeros((1, 1, 3, 1))}),
            r"misshaped: backbone.stem.conv.kernel float64 \[1, 1, 3, 1\], must be",
        ),
        (
            lambda values: values.update({"backbone.stem.norm.gamma": np.zeros(())}),
            r"misshaped: backbone.stem.norm.gamma float64 \[\], must be",
        ),
        (
            lambda values: values.update({"backbone.block1.depthwise.conv.kernel": np.zeros(9)}),
            r"misshaped: backbone.block1.depthwise.conv.kernel float64 \[9\], must be",
        ),
    ],
)
def test_weights_that_do_not_fit_make_no_network(change, message):
    options = {"name": "delg_mobilenet_v2", **SMALL}
    variables = variables_by_path(create_model(seed=0, **options))
    values = {path: variable.numpy() for path, variable in variables.items()}
    folding.inference_network(options, values)
    change(values)
    with pytest.raises(InputError, match=message):
        folding.inference_network(options, values, path="w.npz")


def test_keras_networks_are_copied_as_they_are(images):
    model = create_model("gem_keras:MobileNetV2", seed=0)
    copy = folding.inference_copy(model, "bfloat16")
    np.testing.assert_allclose(copy(images)["global"], model(images)["global"], atol=1e-5)


def test_unknown_precision():
    with pytest.raises(InputError, match="precision"):
        folding.inference_copy(create_model("gem_mobilenet_v2", seed=0, **SMALL), "float16")


def test_the_extractor_folds_by_default_and_can_be_told_not_to():
    model = _trained("delg_mobilenet_v2", **SMALL)
    options = {"image_scales": [1.0, 0.5], "use_local_features": True, "max_num_features": 20}
    image = np.random.RandomState(0).randint(0, 256, (97, 130, 3), np.uint8)
    plain = Extractor(model, fold_normalization=False, **options)
    folded = Extractor(model, **options)
    half = Extractor(model, precision="bfloat16", **options)
    assert plain.model is model and folded.model is not model
    assert [one.precision for one in (plain, folded, half)] == ["float32", "float32", "bfloat16"]
    expected, found, near = plain(image), folded(image), half(image)
    for name in ("global_descriptor", "descriptors", "locations", "scales"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    cosine = np.sum(near["global_descriptor"].numpy() * expected["global_descriptor"].numpy())
    assert 0.99 < cosine < 1.0
    assert near["descriptors"].shape == expected["descriptors"].shape


def test_models_not_of_ours_run_as_they_are_in_float32_only():
    model = ToyModel()
    extractor = Extractor(model)
    assert extractor.model is model and extractor.precision == "float32"
    assert extractor(coordinates_image(32, 32))["global_descriptor"].shape == (3,)
    with pytest.raises(InputError, match="bfloat16 needs"):
        Extractor(model, precision="bfloat16")
