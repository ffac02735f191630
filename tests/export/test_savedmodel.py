from __future__ import annotations

import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delf_tf import create_model
from delf_tf.checks import InputError
from delf_tf.export import loading, savedmodel
from delf_tf.extraction.extractor import Extractor
from delf_tf.extraction.settings import Projection
from tests.extraction.toy import ToyModel

SCALES = [0.5, 1.0, 1.4142135]


def _image(height=70, width=94, seed=0):
    """A smooth picture."""
    coarse = np.random.RandomState(seed).randint(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _extractor(**options):
    model = create_model("delg_mobilenet_v2", width_multiplier=0.35, seed=0, local_dim=8)
    rng = np.random.RandomState(1)
    projection = Projection(rng.randn(8).astype("f") / 10, rng.randn(5, 8).astype("f"))
    options = {"use_local_features": True, "local_projection": projection, **options}
    return Extractor(
        model, image_scales=SCALES, global_scales_ind=[1, 2], max_num_features=9, **options
    )


def _assert_equal(got, want, names=None):
    assert sorted(got) == sorted(names or want)
    for name, value in want.items():
        np.testing.assert_allclose(
            got[(names or {}).get(name, name)], value, rtol=1e-5, atol=1e-5, err_msg=name
        )


@pytest.fixture(scope="module")
def extractor():
    return _extractor()


@pytest.fixture(scope="module")
def exported(extractor, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "joint" / "1"
    return savedmodel.export_extractor(extractor, path, fingerprint="abc")


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


def _settings(**changes):
    return {
        "input_image": tf.constant(_image()),
        "input_scales": tf.constant(SCALES, tf.float32),
        "input_max_feature_num": tf.constant(9),
        "input_abs_thres": tf.constant(0.0),
        "input_global_scales_ind": tf.constant([1, 2]),
        **changes,
    }


def test_signature_is_the_originals(loaded):
    signature = loaded.signatures["serving_default"]
    _, inputs = signature.structured_input_signature
    assert {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in inputs.items()} == {
        "input_image": ("uint8", [None, None, 3]),
        "input_scales": ("float32", [None]),
        "input_max_feature_num": ("int32", []),
        "input_abs_thres": ("float32", []),
        "input_global_scales_ind": ("int32", [None]),
    }
    outputs = {name: spec.shape.as_list() for name, spec in signature.structured_outputs.items()}
    assert outputs == {
        "boxes": [None, 4],
        "features": [None, 5],
        "scales": [None],
        "scores": [None, 1],
        "global_descriptors": [None, 512],
    }


def test_original_signature_gives_what_the_extractor_gives(extractor, loaded):
    want = extractor(_image())
    got = loaded.signatures["serving_default"](**_settings())
    _assert_equal({"features": got["features"]}, {"features": want["descriptors"]})
    np.testing.assert_allclose(got["scores"][:, 0], want["scores"], rtol=1e-5)
    np.testing.assert_allclose(got["scales"], want["scales"], rtol=1e-6)
    boxes = got["boxes"].numpy()
    np.testing.assert_allclose((boxes[:, :2] + boxes[:, 2:]) / 2, want["locations"], atol=1e-3)
    sides = 291 * np.repeat(want["scales"][:, None], 2, axis=1)
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], sides, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got["global_descriptors"], axis=1), 1, rtol=1e-5)
    summed = got["global_descriptors"].numpy().sum(axis=0)
    summed /= np.linalg.norm(summed)
    np.testing.assert_allclose(summed, want["global_descriptor"], atol=1e-5)


def test_original_signature_obeys_its_inputs(loaded):
    signature = loaded.signatures["serving_default"]
    few = signature(**_settings(input_max_feature_num=tf.constant(3)))
    assert few["features"].shape == (3, 5)
    reversed_ind = signature(**_settings(input_global_scales_ind=tf.constant([2, 1, 1])))
    straight = signature(**_settings())["global_descriptors"].numpy()
    np.testing.assert_allclose(reversed_ind["global_descriptors"], straight[[1, 0, 0]], atol=1e-6)
    none = signature(
        **_settings(
            input_abs_thres=tf.constant(1e9),
            input_global_scales_ind=tf.zeros([0], tf.int32),
        )
    )
    assert none["boxes"].shape == (0, 4)
    assert none["features"].shape == (0, 5)
    assert none["scores"].shape == (0, 1)
    assert none["global_descriptors"].shape == (0, 512)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_scales": [0.0]}, "input_scales must be"),
        ({"input_scales": [99.0]}, "input_scales must be"),
        ({"input_scales": np.zeros(0, "f")}, "input_scales must be"),
        ({"input_scales": [float("nan")]}, "input_scales must be"),
        ({"input_global_scales_ind": [3]}, "must index input_scales"),
        ({"input_max_feature_num": -1}, "must not be negative"),
        ({"input_image": np.zeros((9, 40, 3), "u1")}, "at least 10 pixels"),
    ],
)
def test_bad_requests_are_refused(loaded, changes, message):
    given = _settings()
    changes = {name: tf.constant(value, given[name].dtype) for name, value in changes.items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        loaded.signatures["serving_default"](**{**given, **changes})


def test_saved_extractor_is_the_extractor(extractor, exported):
    saved = loading.load_saved_extractor(exported)
    _assert_equal(saved(_image(50, 61)), extractor(_image(50, 61)))
    assert (saved.global_dim, saved.local_dim) == (512, 5)
    assert saved.use_global_features
    assert saved.use_local_features
    assert saved.metadata["fingerprint"] == "abc"
    assert saved.metadata["model"]["name"] == "delg_mobilenet_v2"
    with pytest.raises(InputError, match="uint8 RGB"):
        saved(np.zeros((20, 20, 3), np.float32))


@pytest.mark.parametrize("fixed_scales", [False, True])
def test_global_kinds(tmp_path, fixed_scales):
    extractor = Extractor(ToyModel(), image_scales=[0.5, 1.0])
    path = savedmodel.export_extractor(
        extractor, tmp_path / "m", fixed_scales=fixed_scales, pool_scales=True
    )
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    settings = (
        {}
        if fixed_scales
        else {
            "input_scales": tf.constant([0.5, 1.0]),
            "input_global_scales_ind": tf.constant([0, 1]),
        }
    )
    got = signature(input_image=tf.constant(_image()), **settings)
    _assert_equal(got, extractor(_image()))


def test_local_kind_with_fixed_scales(tmp_path):
    extractor = Extractor(
        ToyModel(), image_scales=[0.5, 1.0], use_global_features=False, use_local_features=True
    )
    path = savedmodel.export_extractor(extractor, tmp_path / "m", fixed_scales=True)
    got = tf.saved_model.load(str(path)).signatures["serving_default"](
        input_image=tf.constant(_image())
    )
    want = extractor(_image())
    assert sorted(got) == ["boxes", "features", "scales", "scores"]
    np.testing.assert_allclose(got["features"], want["descriptors"], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "local"}, "must be of an extractor that gives local features"),
        ({"kind": "locl"}, "Did you mean 'local'"),
    ],
)
def test_kinds_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        savedmodel.export_extractor(Extractor(ToyModel()), tmp_path / "m", **options)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_kept_unless_told(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").write_text("x")
    with pytest.raises(InputError, match="must not exist yet"):
        savedmodel.export_extractor(Extractor(ToyModel()), tmp_path / "m")
    assert (tmp_path / "m" / "mine").is_file()
    savedmodel.export_extractor(Extractor(ToyModel()), tmp_path / "m", overwrite=True)
    assert not (tmp_path / "m" / "mine").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(savedmodel.artifacts, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        savedmodel.export_extractor(Extractor(ToyModel()), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_foreign_and_damaged_folders(exported, tmp_path):
    with pytest.raises(InputError, match="folder with a SavedModel"):
        loading.load_saved_extractor(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    (copy / "saved_model.pb").write_bytes((copy / "saved_model.pb").read_bytes()[:1000])
    with pytest.raises(InputError, match="must be whole"):
        loading.load_saved_extractor(copy)
    (copy / savedmodel.METADATA).write_text("{")
    with pytest.raises(InputError, match="must be whole"):
        loading.load_saved_extractor(copy)
    (copy / savedmodel.METADATA).write_text('{"format_version": 99}')
    with pytest.raises(InputError, match="format must be version"):
        loading.load_saved_extractor(copy)
    (copy / savedmodel.METADATA).unlink()
    with pytest.raises(InputError, match="must hold"):
        loading.load_saved_extractor(copy)
