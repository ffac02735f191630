"""CompactLite: two networks in one, each as it is alone."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.extraction.extractor import Extractor
from delf_tf.models import create
from delf_tf.models.variables import variables_by_path
from delf_tf.models.zoo import checkpoint, joined, whitened
from delf_tf.retrieval.vectors.whitening import fit_pca

NAME = "compact_efficientnet_lite0"
NARROW = {"width_multiplier": 0.25}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    found = {}
    for name in ("gem_efficientnet_lite0", "xfeat"):
        model = create.create_model(name, seed=3, **(NARROW if name != "xfeat" else {}))
        source = {"source": name, "licence": "Apache-2.0"}
        found[name] = checkpoint.save_weights(model, folder / f"{name}.npz", source), model
    path = folder / "joined.npz"
    files = (found[name][0] for name in ("gem_efficientnet_lite0", "xfeat"))
    joined.join_files(NAME, *files, path, **NARROW)
    return path, {name: model for name, (_, model) in found.items()}


@pytest.fixture(scope="module")
def images():
    return tf.constant(np.random.default_rng(0).integers(0, 256, (2, 96, 64, 3)), tf.float32)


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _gem(maps, power, weights=None):
    weights = np.ones(maps.shape[:3]) if weights is None else weights
    weights = (weights / weights.sum(axis=(1, 2), keepdims=True))[..., np.newaxis]
    return np.sum(weights * np.maximum(maps, 1e-6) ** power, axis=(1, 2)) ** (1 / power)


def test_is_its_parts_put_together(parts, images):
    path, alone = parts
    model = create.create_model(NAME, path)
    found = model(images)
    backbone = alone["gem_efficientnet_lite0"]
    maps = backbone.backbone(backbone.preprocess(images), last="stride32")
    maps = {level: one.numpy().astype(np.float64) for level, one in maps.items()}
    pooled = [_unit(_gem(maps["stride32"], 2)), _unit(_gem(maps["stride16"], 2.5))]
    expected = np.concatenate(pooled, axis=1) / np.sqrt(2)
    np.testing.assert_allclose(found["global"], expected, atol=1e-5)
    assert model.global_dim == 1280 + model.backbone.channels("stride16")
    local = alone["xfeat"](images)
    for name in ("features", "scores", "locations"):
        np.testing.assert_allclose(found[name], local[name], atol=1e-5)
    sources = checkpoint.read_options(path)["provenance"]
    assert sources["local"]["source"] == "xfeat"
    assert sources["backbone"]["licence"] == "Apache-2.0"


def test_the_deepest_map_alone_is_the_first_half(parts, images):
    path, _ = parts
    both = create.create_model(NAME, path)(images, outputs=("global",))["global"]
    model = create.create_model(NAME, path, descriptor="deepest")
    deepest = model(images, outputs=("global",))["global"]
    assert model.global_dim == deepest.shape[1] == 1280
    np.testing.assert_allclose(deepest, _unit(both[:, :1280].numpy()), atol=1e-6)


@pytest.mark.parametrize("static", [True, False])
def test_the_backbone_sees_a_smaller_image(parts, images, static):
    path, alone = parts
    model = create.create_model(NAME, path, backbone_scale=0.5)
    # 48 and 32 pixels: one and a half strides round to 64, as a tie does to even.
    small = tf.image.resize(images, [64, 32])
    whole = create.create_model(NAME, path)
    shape = images.shape if static else [None, None, None, 3]
    run = tf.function(model.__call__, input_signature=[tf.TensorSpec(shape, tf.float32)])
    found = run(images)
    np.testing.assert_allclose(found["global"], whole(small)["global"], atol=1e-5)
    np.testing.assert_allclose(found["scores"], alone["xfeat"](images)["scores"], atol=1e-5)
    for scale in (0.4, 1.5):
        with pytest.raises(InputError, match="backbone_scale"):
            create.create_model(NAME, seed=0, backbone_scale=scale, **NARROW)


def test_attention_weighs_the_cells_that_are_pooled(parts, images):
    path, _ = parts
    model = create.create_model(NAME, seed=5, attention_dim=8, **NARROW)
    model.backbone.set_weights(create.create_model(NAME, path).backbone.get_weights())
    maps = model.maps(images, False)
    fine = maps["stride16"].numpy().astype(np.float64)
    attention = model.attention(maps["stride16"]).numpy().astype(np.float64)
    assert attention.std() > 0
    mean = attention.mean(axis=(1, 2), keepdims=True)
    # 96 x 64 pixels: 6 x 4 cells of 16 pixels, 3 x 2 of 32.
    coarse = (1 + (attention / mean) ** 2.0).reshape(2, 3, 2, 2, 2).mean(axis=(2, 4))
    pooled = [
        _unit(_gem(maps["stride32"].numpy().astype(np.float64), 2, coarse)),
        _unit(_gem(fine, 2.5, 0.3 + np.minimum(attention / mean, 1))),
    ]
    expected = np.concatenate(pooled, axis=1) / np.sqrt(2)
    np.testing.assert_allclose(model(images)["global"], expected, atol=1e-5)
    outputs = model.training_outputs(images, training=False)
    weighed = (_unit(fine) * attention[..., np.newaxis]).mean(axis=(1, 2))
    np.testing.assert_allclose(outputs["attention_pooled"], weighed, atol=1e-4)


def test_classes_train_the_attention_alone(parts, images):
    path, _ = parts
    model = create.create_model(NAME, seed=5, attention_dim=8, **NARROW)
    model.backbone.set_weights(create.create_model(NAME, path).backbone.get_weights())
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.training_outputs(images)["attention_pooled"] ** 2)
    learns = {
        name: gradient is not None
        for name, gradient in zip(
            variables_by_path(model), tape.gradient(loss, list(variables_by_path(model).values()))
        )
    }
    assert {name for name, does in learns.items() if does} == {
        f"attention.{part}"
        for part in (
            "hidden.conv.bias",
            "hidden.conv.kernel",
            "hidden.norm.beta",
            "hidden.norm.gamma",
            "score.bias",
            "score.kernel",
        )
    }


def test_each_part_has_its_own_whitening(parts, images):
    path, _ = parts
    model = create.create_model(NAME, path)
    random = np.random.default_rng(1)
    vectors = np.abs(random.normal(size=(40, model.global_dim)))
    fitted = [fit_pca(part, 8, power=0.25) for part in np.split(vectors, [1280], axis=1)]
    made = whitened.with_whitening(model, [(one.mean, one.projection) for one in fitted])
    before, after = model(images), made(images)
    halves = np.split(before["global"].numpy(), [1280], axis=1)
    expected = np.concatenate([one.apply(half) for one, half in zip(fitted, halves)], axis=1)
    np.testing.assert_allclose(after["global"], expected / np.sqrt(2), atol=1e-5)
    np.testing.assert_array_equal(after["features"], before["features"])
    assert made.global_dim == 16
    pairs = [(one.mean, one.projection) for one in fitted]
    with pytest.raises(InputError, match="Each of the 2 pooled parts"):
        whitened.with_whitening(model, pairs[:1])
    with pytest.raises(InputError, match="one width"):
        whitened.with_whitening(model, [pairs[0], (pairs[1][0], pairs[1][1][:3])])


def test_the_extractor_runs_it_folded(parts):
    path, _ = parts
    model = create.create_model(NAME, path)
    image = np.random.default_rng(2).integers(0, 256, (96, 128, 3), np.uint8)
    plain, folded = (
        Extractor(model, use_local_features=True, max_num_features=20, fold_normalization=fold)(
            image
        )
        for fold in (False, True)
    )
    np.testing.assert_allclose(folded["global_descriptor"], plain["global_descriptor"], atol=1e-4)
    np.testing.assert_allclose(folded["locations"], plain["locations"], atol=1e-3)
    assert folded["descriptors"].shape == (20, 64)


def test_files_of_other_networks_are_refused(parts, tmp_path):
    path, alone = parts
    files = {
        name: checkpoint.save_weights(model, tmp_path / f"{name}.npz")
        for name, model in alone.items()
    }
    output = tmp_path / "out.npz"
    with pytest.raises(InputError, match="must hold xfeat"):
        joined.join_files(NAME, files["gem_efficientnet_lite0"], path, output)
    with pytest.raises(InputError, match="must hold the backbone"):
        joined.join_files(NAME, files["xfeat"], files["xfeat"], output)
    assert not output.exists()
