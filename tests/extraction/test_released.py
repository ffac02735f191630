from __future__ import annotations

import shutil

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.export import savedmodel
from delf_tf.extraction.extractor import Extractor
from delf_tf.extraction.released import ReleasedExtractor
from delf_tf.extraction.settings import Projection
from tests.extraction.toy import ToyModel, coordinates_image


def _tensorflow1_model(path, *, with_global=True):
    """A graph with the released models' tensor names: features of two cells a scale."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.uint8, [None, None, 3], name="input_image")
        scales = v1.placeholder(tf.float32, [None], name="input_scales")
        threshold = v1.placeholder(tf.float32, [], name="input_abs_thres")
        most = v1.placeholder(tf.int32, [], name="input_max_feature_num")
        weight = v1.get_variable("weight", initializer=tf.constant([3.0, 4.0]), use_resource=True)
        keep = tf.boolean_mask(tf.range(tf.size(scales)), scales >= threshold)[:most]
        kept = tf.gather(scales, keep)
        corner = tf.stack([16.0 / kept, 32.0 / kept], axis=1)
        half = 145.0 / kept[:, None]
        tf.concat([corner - half, corner + half], axis=1, name="boxes")
        tf.multiply(tf.ones_like(kept)[:, None], weight[None], name="features")
        tf.divide(1.0, kept, name="scales")
        tf.identity(kept[:, None], name="scores")
        if with_global:
            indices = v1.placeholder(tf.int32, [None], name="input_global_scales_ind")
            mean = tf.reduce_mean(tf.cast(image, tf.float32), axis=[0, 1])
            chosen = tf.gather(scales, indices)
            tf.identity(chosen[:, None] * mean[None], name="global_descriptors")
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, [v1.saved_model.tag_constants.SERVING])
        builder.save()
    return path


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return _tensorflow1_model(tmp_path_factory.mktemp("released") / "delg")


def test_a_released_model_runs_as_it_is(released):
    extractor = ReleasedExtractor(
        released,
        image_scales=[0.5, 1.0, 2.0],
        global_scales_ind=[0, 2],
        use_local_features=True,
        score_threshold=0.75,
    )
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0], image[..., 2] = 60, 80
    features = extractor(image)
    assert (extractor.global_dim, extractor.local_dim) == (3, 2)
    np.testing.assert_allclose(features["global_descriptor"], [0.6, 0, 0.8], atol=1e-6)
    np.testing.assert_allclose(features["descriptors"], [[0.6, 0.8]] * 2, atol=1e-6)
    np.testing.assert_allclose(features["locations"], [[16, 32], [8, 16]], atol=1e-4)
    np.testing.assert_allclose(features["scales"], [1, 0.5])
    np.testing.assert_allclose(features["scores"], [1, 2])


def test_only_what_is_asked_for(released):
    local = ReleasedExtractor(released, use_global_features=False, use_local_features=True)
    features = local(np.zeros((16, 16, 3), np.uint8))
    assert sorted(features) == ["descriptors", "locations", "scales", "scores"]
    assert local.global_dim is None
    none = ReleasedExtractor(
        released, use_global_features=False, use_local_features=True, score_threshold=1e6
    )
    assert none(np.zeros((16, 16, 3), np.uint8))["descriptors"].shape == (0, 2)


def test_projections(released):
    matrix = np.array([[0.0, 1.0]])
    extractor = ReleasedExtractor(
        released,
        use_global_features=False,
        use_local_features=True,
        local_projection=Projection(np.zeros(2), matrix),
    )
    assert extractor.local_dim == 1
    features = extractor(np.zeros((16, 16, 3), np.uint8))
    np.testing.assert_allclose(features["descriptors"], [[1.0]])
    with pytest.raises(InputError, match="global_projection"):
        ReleasedExtractor(released, global_projection=Projection(np.zeros(2), matrix))


def test_a_model_of_the_second_exporters_signature(tmp_path):
    options = {"image_scales": [0.5, 1.0], "use_local_features": True, "max_num_features": 4}
    extractor = Extractor(ToyModel(), **options)
    path = savedmodel.export_extractor(extractor, tmp_path / "m")
    image = coordinates_image(64, 96)
    want = extractor(image)
    got = ReleasedExtractor(path, **options)(image)
    assert sorted(got) == sorted(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-3)
    # The joint signature serves for local features alone too.
    alone = ReleasedExtractor(path, **options, use_global_features=False)(image)
    assert "global_descriptor" not in alone


def test_models_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match="folder with a SavedModel"):
        ReleasedExtractor(tmp_path)
    local_only = _tensorflow1_model(tmp_path / "local", with_global=False)
    with pytest.raises(InputError, match=r"must take input_image, .* and give global_descriptors"):
        ReleasedExtractor(local_only)
    path = savedmodel.export_extractor(Extractor(ToyModel()), tmp_path / "global")
    with pytest.raises(InputError, match="must give boxes, features, scales, scores"):
        ReleasedExtractor(path, use_local_features=True)
    (path / "saved_model.pb").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="must take"):
        ReleasedExtractor(path)


def test_bad_arguments(released):
    with pytest.raises(InputError, match="or both"):
        ReleasedExtractor(released, use_global_features=False)
    with pytest.raises(InputError, match="max_num_features"):
        ReleasedExtractor(released, max_num_features=0)
    with pytest.raises(InputError, match="global_scales_ind"):
        ReleasedExtractor(released, global_scales_ind=[1])


def test_an_experiment_of_a_released_model(released, tmp_path):
    from delf_tf import config, load_extractor
    from delf_tf.pipelines.runtime import Runtime

    path = tmp_path / "released.textproto"
    path.write_text("extraction { image_scales: 1.0 use_local_features: true }")
    extractor = load_extractor(path, weights=released)
    assert isinstance(extractor, ReleasedExtractor)
    assert extractor(np.zeros((16, 16, 3), np.uint8))["locations"].shape == (1, 2)
    with pytest.raises(InputError, match="is one already"):
        savedmodel.export_extractor(extractor, tmp_path / "again")
    with pytest.raises(InputError, match="must be left out"):
        load_extractor(path, weights=released, overrides=["extraction.nms_iou=0.5"])

    def fingerprint(weights):
        message = config.load_experiment(str(path))
        message.model.weights = str(weights)
        return Runtime(message).fingerprint()

    copy = shutil.copytree(released, tmp_path / "copy")
    assert fingerprint(copy) == fingerprint(released)
    (copy / "saved_model.pb").write_bytes((copy / "saved_model.pb").read_bytes() + b"x")
    assert fingerprint(copy) != fingerprint(released)
