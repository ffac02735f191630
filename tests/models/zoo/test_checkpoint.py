"""Weights files: round trips, foreign and hostile files, and nothing loaded in part."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.models.create import create_model
from delf_tf.models.layers import AveragePooling
from delf_tf.models.variables import variables_by_path
from delf_tf.models.zoo import checkpoint, whitened

NAME = "delg_resnet14"
SMALL = {"width_multiplier": 0.125, "embedding_dim": 6, "local_dim": 4}


@pytest.fixture(scope="module")
def model():
    return create_model(NAME, seed=1, **SMALL)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.npz"
    return checkpoint.save_weights(model, path, provenance={"licence": "none"})


def _arrays(model):
    return {
        path: np.asarray(variable).copy() for path, variable in variables_by_path(model).items()
    }


def _images():
    return np.random.RandomState(0).uniform(0, 255, (1, 64, 80, 3)).astype(np.float32)


def test_round_trip(model, saved):
    again = create_model(NAME, weights=saved)
    assert again.options == model.options
    for path, array in _arrays(again).items():
        np.testing.assert_array_equal(array, variables_by_path(model)[path])
    for key, value in model(_images()).items():
        np.testing.assert_allclose(again(_images())[key], value, rtol=1e-5, atol=1e-5)
    options = checkpoint.read_options(saved)
    assert options["provenance"] == {"licence": "none"}
    assert options["name"] == NAME


def test_preprocessing_travels_with_the_weights(tmp_path):
    preprocessing = {"channel_order": "BGR", "mean": [1.5, 2.5, 3.5], "std": [0.1, 0.2, 0.3]}
    made = create_model("gem_mobilenet_v2", width_multiplier=0.125, preprocessing=preprocessing)
    path = checkpoint.save_weights(made, tmp_path / "w.npz")
    again = create_model("gem_mobilenet_v2", weights=path)
    assert again.options["preprocessing"] == preprocessing
    np.testing.assert_array_equal(again.preprocess(_images()), made.preprocess(_images()))


def test_equal_weights_make_equal_files(model, saved, tmp_path):
    again = checkpoint.save_weights(model, tmp_path / "again.npz", {"licence": "none"})
    assert again.read_bytes() == saved.read_bytes()


def test_numpy_reads_it(model, saved):
    with np.load(saved, allow_pickle=False) as archive:
        path, array = next(iter(_arrays(model).items()))
        np.testing.assert_array_equal(archive[path], array)


def test_half_precision_is_cast(model, tmp_path):
    arrays = {path: array.astype(np.float16) for path, array in _arrays(model).items()}
    path = checkpoint.write_arrays(tmp_path / "half.npz", arrays, model.options)
    again = create_model(NAME, weights=path)
    for name, array in _arrays(again).items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, arrays[name].astype(np.float32))


def test_fortran_order_is_read(model, tmp_path):
    arrays = {path: np.asfortranarray(array) for path, array in _arrays(model).items()}
    path = tmp_path / "fortran.npz"
    options = {"format": checkpoint.FORMAT, **model.options, "provenance": {}}
    np.savez(path, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(checkpoint.OPTIONS_KEY, json.dumps(options))
    again = create_model(NAME, weights=path)
    for name, array in _arrays(again).items():
        np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"embedding_dim": 7}, "embedding_dim must agree with the weights"),
        ({"gem_power": 2.0}, "gem_power must agree with the weights"),
        ({"attention_dim": 512}, "attention_dim must agree with the weights"),
        ({"preprocessing": {"channel_order": "BGR"}}, "preprocessing must agree"),
    ],
)
def test_contradicting_options_are_refused(saved, kwargs, message):
    with pytest.raises(InputError, match=message):
        create_model(NAME, weights=saved, **kwargs)


def test_agreeing_and_free_options_are_taken(saved):
    again = create_model(
        NAME, weights=saved, embedding_dim=6, gem_power=3.0, global_pooling="average"
    )
    assert isinstance(again.pooling, AveragePooling)


def test_another_model_is_refused(saved):
    with pytest.raises(InputError, match="weights must be of a gem_mobilenet_v2"):
        create_model("gem_mobilenet_v2", weights=saved)


def _broken(model, change):
    arrays = dict(_arrays(model))
    change(arrays)
    return arrays


def _poison(arrays):
    arrays["whitening.kernel"] = np.full_like(arrays["whitening.kernel"], np.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("whitening.kernel"), "missing: whitening.kernel"),
        (lambda a: a.update({"odd.kernel": np.zeros(3, np.float32)}), "extra: odd.kernel"),
        (lambda a: a.update({"whitening.bias": np.zeros(3)}), r"whitening.bias float64 \[3\]"),
        (lambda a: a.update({"whitening.bias": np.zeros(6, "U3")}), r"whitening.bias <U3 \[6\]"),
        (_poison, "not finite: whitening.kernel"),
    ],
)
def test_bad_arrays_are_refused_and_nothing_is_loaded(model, tmp_path, change, message):
    path = checkpoint.write_arrays(tmp_path / "bad.npz", _broken(model, change), model.options)
    target = create_model(NAME, seed=9, **SMALL)
    before = _arrays(target)
    with pytest.raises(InputError, match=message):
        checkpoint.load_weights(target, path)
    for name, array in _arrays(target).items():
        np.testing.assert_array_equal(array, before[name])


def test_truncated_files_are_refused(saved, tmp_path):
    content = saved.read_bytes()
    path = tmp_path / "cut.npz"
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"must be a whole \.npz file, undamaged"):
            checkpoint.read_options(path)


def test_flipped_bits_are_refused(model, saved, tmp_path):
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 255
    path = tmp_path / "flipped.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="undamaged"):
        checkpoint.load_weights(model, path)


def test_foreign_npz_is_refused(tmp_path):
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="written by delf_tf"):
        checkpoint.read_options(tmp_path / "foreign.npz")


def test_pickles_are_refused(model, tmp_path):
    path = tmp_path / "pickle.npz"
    arrays = _arrays(model)
    arrays["whitening.bias"] = np.array([{}] * 6, dtype=object)
    np.savez(path, **arrays)
    options = {"format": checkpoint.FORMAT, **model.options, "provenance": {}}
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(checkpoint.OPTIONS_KEY, json.dumps(options))
    with pytest.raises(InputError, match=r"not numbers: whitening\.bias"):
        checkpoint.load_weights(model, path)


@pytest.mark.parametrize(
    "options", ["[]", "{", '{"format": "other"}', '{"format": "delf_tf weights 1"}', "[" * 100_000]
)
def test_bad_options_are_refused(tmp_path, options):
    path = tmp_path / "options.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(checkpoint.OPTIONS_KEY, options)
    with pytest.raises(InputError):
        checkpoint.read_options(path)


def test_a_header_that_claims_too_much_allocates_nothing(model, saved, tmp_path):
    path = tmp_path / "huge.npz"
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "whitening.bias.npy":
                content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
            new.writestr(name, content)
    with pytest.raises(InputError, match=r"undamaged.*whitening.bias"):
        checkpoint.load_weights(model, path)


def test_not_finite_weights_are_not_written(tmp_path):
    bad = create_model("gem_mobilenet_v2", seed=1, width_multiplier=0.125)
    variable = variables_by_path(bad)["backbone.stem.conv.kernel"]
    variable.assign(np.full(tuple(variable.shape), np.inf, np.float32))
    with pytest.raises(InputError, match="stem"):
        checkpoint.save_weights(bad, tmp_path / "bad.npz")
    assert not list(tmp_path.iterdir())


def test_missing_file():
    with pytest.raises(InputError, match="exists"):
        create_model(NAME, weights="no/such/file.npz")


def test_halved_weights_load_to_float16_precision(tmp_path):
    model = create_model("compact_resnet20", seed=1, width_multiplier=0.125, feature_dim=32)
    whole = checkpoint.save_weights(model, tmp_path / "whole.npz", {"licence": "ours"})
    half = checkpoint.halve(whole, tmp_path / "half.npz")
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    assert checkpoint.read_options(half) == checkpoint.read_options(whole)
    loaded = create_model("compact_resnet20", half)
    for before, after in zip(model.get_weights(), loaded.get_weights()):
        halved = before.astype(np.float16) if before.ndim > 1 else before
        np.testing.assert_array_equal(halved.astype(np.float32), after)


def test_halving_refuses_what_float16_cannot_hold(tmp_path):
    arrays = {"one.kernel": np.array([[1e6]], np.float32)}
    options = {"name": "any", "kwargs": {}, "preprocessing": {}}
    path = checkpoint.write_arrays(tmp_path / "wide.npz", arrays, options)
    with pytest.raises(InputError, match=r"one\.kernel"):
        checkpoint.halve(path, tmp_path / "half.npz")
    assert not (tmp_path / "half.npz").exists()


def test_the_name_in_a_file_to_be_whitened_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "stranger.py").write_text("open('imported', 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = {"name": "stranger:Thing", "kwargs": {}, "preprocessing": {}}
    path = checkpoint.write_arrays(tmp_path / "w.npz", {}, options)
    with pytest.raises(InputError, match="weights to be whitened must be one of"):
        whitened.write_weights(path, np.zeros((1, 1)), None, tmp_path / "out.npz")
    assert not (tmp_path / "imported").exists()
