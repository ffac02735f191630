"""PyTorch's files: what PyTorch 2.13 wrote in both of its forms, and hostile ones."""

from __future__ import annotations

import collections
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.models.zoo import foreign_files, torch_file

GOLDEN = Path(__file__).parents[2] / "golden/models"
FORMS = ("torch_archive", "torch_pickles")


@pytest.mark.parametrize("form", FORMS)
def test_tensors_are_those_that_were_saved(form):
    """Of every type, transposed and cut views, a scalar, an empty one and a parameter."""
    got = torch_file.load(GOLDEN / f"{form}.pth", max_bytes=1 << 20)
    assert (got["epoch"], got["lr"]) == (3, 0.1)
    with np.load(GOLDEN / "torch_state.npz") as wanted:
        assert list(got["model"]) == wanted.files
        for name, array in got["model"].items():
            assert array.shape == wanted[name].shape
            np.testing.assert_array_equal(array.astype(np.float32), wanted[name], err_msg=name)
    assert got["model"]["bool"].dtype == bool
    assert got["model"]["bfloat16"].dtype == np.float32


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoints_weights_are_found_in_it(form):
    arrays = foreign_files.read_arrays(GOLDEN / f"{form}.pth")
    assert {"float", "transposed", "parameter"} < set(arrays)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("keep", [0, 10, 100, 1000, -40])
def test_truncated_files_are_refused(tmp_path, form, keep):
    path = tmp_path / "w.pth"
    path.write_bytes((GOLDEN / f"{form}.pth").read_bytes()[:keep])
    with pytest.raises(InputError):
        foreign_files.read_arrays(path)


class _Call:
    """Pickles as a call of a dotted name that need not exist here."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments


class _Pickler(pickle._Pickler):
    def __init__(self, file):
        super().__init__(file, protocol=2)

    def persistent_id(self, value):
        return value.arguments if isinstance(value, _Call) and value.name == "storage" else None

    def save(self, value, save_persistent_id=True):
        if isinstance(value, _Call) and value.name != "storage":
            module, _, name = value.name.rpartition(".")
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
            if value.arguments:
                super().save(value.arguments)
                self.write(pickle.REDUCE)
            return
        super().save(value, save_persistent_id)


def _archive(path, content, storages, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        with archive.open("archive/data.pkl", "w") as file:
            _Pickler(file).dump(content)
        for key, raw in storages.items():
            archive.writestr(f"archive/data/{key}", raw)


def _tensor(*, offset=0, shape=(4,), strides=(1,), count=4, key="0", storage=None):
    storage = storage or _Call("storage", "storage", _Call("torch.FloatStorage"), key, "cpu", count)
    return _Call("torch._utils._rebuild_tensor_v2", storage, offset, shape, strides, False, {})


RAW = struct.pack("<4f", 1, 2, 3, 4)


def test_what_the_hostile_files_are_made_of_is_read(tmp_path):
    _archive(tmp_path / "w.pth", {"a": _tensor(offset=1, shape=(2, 2), strides=(0, 1))}, {"0": RAW})
    got = foreign_files.read_arrays(tmp_path / "w.pth")
    np.testing.assert_array_equal(got["a"], [[2, 3], [2, 3]])


@pytest.mark.parametrize(
    "content",
    [
        {"a": _tensor(shape=(5,))},
        {"a": _tensor(offset=-1)},
        {"a": _tensor(offset=3, shape=(2,))},
        {"a": _tensor(strides=(-1,))},
        {"a": _tensor(strides=(1, 1))},
        {"a": _tensor(shape=(1 << 30, 4), strides=(0, 1))},
        {"a": _tensor(count=5)},
        {"a": _tensor(count=1 << 60)},
        {"a": _tensor(key="../../secret")},
        {"a": _tensor(storage=[1.0])},
        {"a": _tensor(storage=_Call("torch.FloatStorage", 1 << 40))},
        {"a": _Call("storage", "module", 1, 2, 3, 4)},
        {"a": _Call("os.system", "echo run")},
        {"a": _Call("torch.load", "x")},
    ],
)
def test_hostile_archives_are_refused(tmp_path, content):
    _archive(tmp_path / "w.pth", content, {"0": RAW})
    with pytest.raises(InputError):
        foreign_files.read_arrays(tmp_path / "w.pth")


def test_many_views_of_one_storage_do_not_fill_the_memory(tmp_path):
    views = {str(index): _tensor(shape=(10_000,), count=10_000) for index in range(1000)}
    _archive(tmp_path / "w.pth", views, {"0": bytes(40_000)})
    with pytest.raises(InputError, match="far more values than the file has bytes for"):
        foreign_files.read_arrays(tmp_path / "w.pth")


def test_a_compressed_archive_is_refused(tmp_path):
    _archive(tmp_path / "w.pth", {"a": _tensor()}, {"0": RAW}, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="compressed"):
        foreign_files.read_arrays(tmp_path / "w.pth")


def test_hostile_pickles_are_refused(tmp_path):
    begin = [torch_file._MAGIC, 1001, {"little_endian": True}]
    lengths = {"far": 1 << 50, "negative": -4}
    for name, count in lengths.items():
        path = tmp_path / f"{name}.pth"
        with path.open("wb") as file:
            for value in begin:
                pickle.dump(value, file, protocol=2)
            storage = _Call(
                "storage", "storage", _Call("torch.FloatStorage"), "0", "cpu", count, None
            )
            _Pickler(file).dump(collections.OrderedDict(a=_tensor(storage=storage)))
            pickle.dump(["0"], file, protocol=2)
            file.write(struct.pack("<q", 4) + RAW)
        with pytest.raises(InputError):
            foreign_files.read_arrays(path)
    (tmp_path / "other.pth").write_bytes(pickle.dumps([1, 2, 3], protocol=2))
    with pytest.raises(InputError, match="whole"):
        foreign_files.read_arrays(tmp_path / "other.pth")
