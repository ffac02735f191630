"""Weights files of other programs: read as data, damaged and hostile ones refused."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.models.zoo import foreign_files

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float16([1, 2])}


def _equal(got, want=None):
    want = ARRAYS if want is None else want
    assert got.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)


def test_npz(tmp_path):
    fortran = np.asfortranarray(ARRAYS["a.weight"])
    np.savez(tmp_path / "w.npz", **{**ARRAYS, "a.weight": fortran, "scalar": np.array(3)})
    _equal(foreign_files.read_arrays(tmp_path / "w.npz"), {**ARRAYS, "scalar": np.array(3)})
    np.savez_compressed(tmp_path / "empty.npz")
    assert foreign_files.read_arrays(tmp_path / "empty.npz") == {}


def test_safetensors(tmp_path):
    from safetensors.numpy import save_file

    save_file(ARRAYS, tmp_path / "w.safetensors")
    _equal(foreign_files.read_arrays(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("prefix", ["", "model_weights/", "resnet50/"])
def test_hdf5_by_layers(tmp_path, prefix):
    import h5py

    with h5py.File(tmp_path / "w.h5", "w") as file:
        file[f"{prefix}conv1_conv/conv1_conv/kernel:0"] = np.ones((2, 2))
    got = foreign_files.read_arrays(tmp_path / "w.h5")
    _equal(got, {"conv1_conv.kernel": np.ones((2, 2))})


def test_tensorflow_checkpoints(tmp_path):
    module = tf.Module()
    module.kernel = tf.Variable([1.0, 2.0])
    path = tf.train.Checkpoint(backbone=module).save(str(tmp_path / "ckpt"))
    got = foreign_files.read_arrays(path)
    np.testing.assert_array_equal(got["backbone.kernel"], [1.0, 2.0])
    data = tmp_path / "ckpt-1.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:4])
    with pytest.raises(InputError, match="must be a TensorFlow checkpoint"):
        foreign_files.read_arrays(path)


def test_paddle(tmp_path):
    state = {**ARRAYS, "StructuredToParameterName@@": {"b": "linear_0.b_0"}}
    (tmp_path / "w.pdparams").write_bytes(pickle.dumps(state, protocol=2))
    _equal(foreign_files.read_arrays(tmp_path / "w.pdparams"))
    (tmp_path / "evil.pdparams").write_bytes(pickle.dumps({"a": _Evil()}))
    with pytest.raises(InputError, match="Nothing in it was run"):
        foreign_files.read_arrays(tmp_path / "evil.pdparams")


class _Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_nothing_in_a_file_is_run(tmp_path, capsys):
    np.savez(tmp_path / "evil.npz", a=np.array([_Evil()], dtype=object))
    with pytest.raises(InputError, match="must be plain"):
        foreign_files.read_arrays(tmp_path / "evil.npz")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(InputError, match="Nothing in it was run"):
        foreign_files.read_arrays(tmp_path / "evil.pth")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("keep", [0, 10, 100, -40])
def test_truncated_files_are_refused(tmp_path, keep):
    np.savez(tmp_path / "w.npz", **ARRAYS)
    content = (tmp_path / "w.npz").read_bytes()
    for suffix in (".npz", ".h5", ".safetensors"):
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(content[:keep])
        with pytest.raises(InputError, match=f"must be a whole {suffix} file"):
            foreign_files.read_arrays(path)


def test_a_header_that_lies_allocates_nothing(tmp_path):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    )
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", head.getvalue() + b"1234")
    with pytest.raises(InputError, match="whole"):
        foreign_files.read_arrays(tmp_path / "w.npz")


def test_too_much_is_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "w.npz", **ARRAYS)
    monkeypatch.setattr(foreign_files, "MAX_ARRAYS", 1)
    with pytest.raises(InputError, match="at most 1 arrays"):
        foreign_files.read_arrays(tmp_path / "w.npz")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="must exist"):
        foreign_files.read_arrays(tmp_path / "none.npz")
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(InputError, match=r"\.npz"):
        foreign_files.read_arrays(tmp_path / "w.onnx")


def test_flatten():
    inner = {"x": np.ones(2), "n": {"y": np.zeros(1)}, "epoch": 3}
    want = {"x": np.ones(2), "n.y": np.zeros(1)}
    _equal(foreign_files.flatten(inner), want)
    _equal(foreign_files.flatten({"state_dict": inner}), want)
    _equal(foreign_files.flatten({f"module.{k}": v for k, v in want.items()}), want)
    with pytest.raises(InputError, match="must hold arrays"):
        foreign_files.flatten({"a": 1})
    with pytest.raises(InputError, match="must be a dict"):
        foreign_files.flatten([1])
