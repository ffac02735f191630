"""Super-features as local features: what is kept, where they lie, and how they are exported."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.export import loading, savedmodel
from delf_tf.extraction.extractor import Extractor
from delf_tf.models.create import create_model

NUM, DIM = 8, 12


@pytest.fixture(scope="module")
def model():
    return create_model(
        "superfeatures_resnet14",
        seed=0,
        width_multiplier=0.125,
        num_superfeatures=NUM,
        superfeature_dim=16,
        num_iterations=2,
        local_dim=DIM,
    )


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)


def _extractor(model, **options):
    settings = {"use_global_features": False, "use_local_features": True, **options}
    return Extractor(model, **settings)


def test_strongest_of_all_scales_are_kept(model, image):
    every = _extractor(model, image_scales=(1.0, 0.5), max_num_features=100)(image)
    assert every["descriptors"].shape == (2 * NUM, DIM)
    np.testing.assert_allclose(np.linalg.norm(every["descriptors"], axis=1), 1, atol=1e-5)
    scores = every["scores"].numpy()
    assert (np.diff(scores) <= 0).all()
    assert sorted(set(every["scales"].numpy().tolist())) == [1.0, 2.0]
    few = _extractor(model, image_scales=(1.0, 0.5), max_num_features=5)(image)
    for name, values in few.items():
        np.testing.assert_allclose(values, every[name][:5], atol=1e-5)


def test_one_scale_is_what_the_model_gives(model, image):
    found = _extractor(model, fold_normalization=False)(image)
    outputs = model(image[np.newaxis].astype(np.float32))
    order = np.argsort(-outputs["strengths"][0].numpy(), kind="stable")
    np.testing.assert_allclose(found["scores"], outputs["strengths"].numpy()[0][order], rtol=1e-5)
    want = tf.math.l2_normalize(outputs["superfeatures"][0], axis=-1).numpy()[order]
    np.testing.assert_allclose(found["descriptors"], want, atol=1e-5)
    # By hand: the mean over cells of their centres, weighted by the attention.
    attention = outputs["attention"].numpy()[0][order]
    ys = model.local_offset(64) + 16 * np.arange(attention.shape[1])
    xs = model.local_offset(96) + 16 * np.arange(attention.shape[2])
    y, x = (attention.sum(axis=2) @ ys, attention.sum(axis=1) @ xs)
    np.testing.assert_allclose(found["locations"], np.stack([y, x], axis=1), atol=1e-3)


def test_folding_and_bfloat16_keep_them(model, image):
    plain = _extractor(model, fold_normalization=False)(image)
    folded = _extractor(model)(image)
    np.testing.assert_allclose(folded["descriptors"], plain["descriptors"], atol=1e-4)
    half = _extractor(model, precision="bfloat16")(image)
    assert half["descriptors"].shape == (NUM, DIM)
    assert np.isfinite(half["descriptors"].numpy()).all()


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(InputError, match="border_cells must be 0"):
        _extractor(model, border_cells=1)
    with pytest.raises(InputError, match="must give global"):
        Extractor(model, use_local_features=True)


def test_exported_is_the_extractor(model, image, tmp_path):
    extractor = _extractor(model, image_scales=(1.0, 0.5), max_num_features=10)
    path = savedmodel.export_extractor(extractor, tmp_path / "fire" / "1")
    loaded = loading.load_saved_extractor(path)
    for name, values in extractor(image).items():
        np.testing.assert_allclose(loaded(image)[name], values, atol=1e-5)
    served = tf.saved_model.load(str(path)).signatures["serving_default"](
        input_image=tf.constant(image),
        input_scales=tf.constant([1.0, 0.5]),
        input_max_feature_num=tf.constant(10),
        input_abs_thres=tf.constant(0.0),
    )
    np.testing.assert_allclose(served["features"], extractor(image)["descriptors"], atol=1e-5)
