"""Features go to other programs' formats and come back."""

from __future__ import annotations

import io
import json
import shutil
import sys
import zipfile

import h5py
import numpy as np
import pytest

from delf_tf import npz
from delf_tf.checks import InputError
from delf_tf.features.formats import delf_format, exchange_index, numpy_files
from delf_tf.features.formats.interchange import export_features, import_features
from delf_tf.features.store import FeatureStore, ImageFeatures, create, writer
from delf_tf.types import LocalFeatures
from tests.features.samples import DIMS, assert_same, make, names, sample

IDS = [*names(5), "b/c.png", "no ending"]


@pytest.fixture
def store(tmp_path):
    return FeatureStore(make(tmp_path / "store", IDS, bad=IDS[3:4]))


def one_kind(path, kind):
    """A store of global descriptors or of local features alone."""
    create(path, IDS, fingerprint="f", **{f"{kind}_dim": DIMS[f"{kind}_dim"]})
    with writer(path) as shard_writer:
        for block, ids in shard_writer.pending():
            whole = [sample(one) for one in ids]
            local = [ImageFeatures(None, one.local) for one in whole]
            vectors = [ImageFeatures(one.global_descriptor, None) for one in whole]
            shard_writer.write(block, ids, local if kind == "local" else vectors, {})
    return FeatureStore(path)


def test_hloc_round_trips_to_the_bit(tmp_path, store):
    path = export_features(store, tmp_path / "out.h5", "hloc")
    back = FeatureStore(import_features(path, tmp_path / "back", "hloc"))
    assert set(back.ids()) == set(store.ids())
    assert back.fingerprint == store.fingerprint
    for one in store.ids():
        assert_same(back.read(one), sample(one))


@pytest.mark.parametrize("kind", ["local", "global"])
@pytest.mark.parametrize("format", ["delf", "hloc"])
def test_stores_of_one_kind(tmp_path, kind, format):
    store = one_kind(tmp_path / "s", kind)
    path = export_features(store, tmp_path / "out.h5", format)
    back = FeatureStore(import_features(path, tmp_path / "back", format))
    assert (back.global_dim, back.local_dim) == (store.global_dim, store.local_dim)
    assert set(back.ids()) == set(IDS)
    if kind == "global":
        for one in IDS:
            got = back.read(one).global_descriptor
            np.testing.assert_array_equal(got, sample(one).global_descriptor)


def test_npy_and_ids(tmp_path, store):
    path = export_features(store, tmp_path / "global.npy", "npy")
    np.testing.assert_array_equal(np.load(path), store.global_descriptors().vectors)
    assert json.loads((tmp_path / "global.ids.json").read_text()) == list(store.ids())
    back = FeatureStore(import_features(path, tmp_path / "back", "npy"))
    assert back.ids() == store.ids()
    np.testing.assert_array_equal(
        back.global_descriptors().vectors, store.global_descriptors().vectors
    )


def test_parquet_for_vector_databases(tmp_path, store, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(numpy_files, "_GROUP_ROWS", 4)
    path = export_features(store, tmp_path / "v.parquet", "parquet")
    groups = parquet.ParquetFile(path).metadata
    rows = [groups.row_group(one).num_rows for one in range(groups.num_row_groups)]
    assert all(one >= 4 for one in rows[:-1])
    assert 1 < len(rows) < len(list(store.global_blocks()))
    table = parquet.read_table(path)
    assert table.column("id").to_pylist() == list(store.ids())
    assert table.column("row").to_pylist() == list(range(len(store.ids())))
    vectors = np.array(table.column("vector").to_pylist(), np.float32)
    np.testing.assert_array_equal(vectors, store.global_descriptors().vectors)
    assert table.schema.metadata[b"delf_tf_fingerprint"].decode() == store.fingerprint
    local = one_kind(tmp_path / "local", "local")
    with pytest.raises(InputError, match="global descriptors"):
        export_features(local, tmp_path / "l.parquet", "parquet")


def test_parquet_without_pyarrow(tmp_path, store, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"delf_tf\[databases\]"):
        export_features(store, tmp_path / "v.parquet", "parquet")


def test_delf_files_hold_the_originals_locations(tmp_path, store):
    folder = export_features(store, tmp_path / "out", "delf")
    one = IDS[0]
    local = delf_format.read_delf(folder / "folder/ä 0.delg_local")
    expected = sample(one).local
    shift = 0.5 - 0.5 * expected.scales[:, None]
    np.testing.assert_allclose(local.locations, expected.locations + shift, atol=1e-4)
    vector = delf_format.read_datum(folder / "folder/ä 0.delg_global")
    np.testing.assert_array_equal(vector, sample(one).global_descriptor)
    back = FeatureStore(import_features(folder, tmp_path / "back", "delf"))
    for one in store.ids():
        np.testing.assert_allclose(
            back.read_local(one).locations, sample(one).local.locations, atol=1e-4
        )


def test_a_folder_the_original_wrote(tmp_path, golden_dir):
    folder = tmp_path / "original"
    folder.mkdir()
    golden = golden_dir / "delf"
    shutil.copy(golden / "io" / "feat40.delf", folder / "love.delf")
    shutil.copy(golden / "io" / "feat40.delf", folder / "seven.delf")
    shutil.copy(golden / "io" / "feat_none.delf", folder / "a_none.delf")
    shutil.copy(golden / "io" / "feat128.delf", folder / "other_width.delf")
    (folder / "torn.delf").write_bytes((folder / "love.delf").read_bytes()[:-3])
    path = import_features(folder, tmp_path / "s", "delf", cell_centre_px=3)
    store = FeatureStore(path)
    assert store.ids() == ("a_none", "love", "seven")
    assert set(store.failed()) == {"other_width", "torn"}
    assert len(store.read_local("a_none")) == 0
    expected = delf_format.read_delf(folder / "love.delf")
    shift = 3.5 * expected.scales[:, None] - 0.5
    np.testing.assert_allclose(
        store.read_local("love").locations, expected.locations + shift, rtol=1e-6
    )
    assert import_features(folder, tmp_path / "s", "delf", cell_centre_px=3) == path


def test_hloc_layout_by_hand(tmp_path):
    create(tmp_path / "s", ["db/1.jpg"], fingerprint="f", local_dim=2)
    local = LocalFeatures([[10, 20], [30.5, 7]], [[1, 2], [3, 4]], [0.5, 0.25], [1, 2])
    with writer(tmp_path / "s") as shard_writer:
        shard_writer.write(0, ["db/1.jpg"], [ImageFeatures(None, local)], {})
    store = FeatureStore(tmp_path / "s")
    path = export_features(store, tmp_path / "f.h5", "hloc")
    with h5py.File(path, "r") as file:
        group = file["db/1.jpg"]
        np.testing.assert_array_equal(group["keypoints"], [[20, 10], [7, 30.5]])
        np.testing.assert_array_equal(group["descriptors"], [[1, 3], [2, 4]])
        np.testing.assert_array_equal(group["scores"], [0.5, 0.25])
        np.testing.assert_array_equal(group["image_size"], [21, 32])


def test_a_file_hloc_wrote(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name, num in [("db/1.jpg", 3), ("2.jpg", 0)]:
            group = file.create_group(name)
            group["keypoints"] = np.float16(np.arange(2 * num).reshape(num, 2))
            group["descriptors"] = np.ones((4, num), np.float16)
            group["global_descriptor"] = np.float32([3, 4])
            group["image_size"] = [640, 480]
    store = FeatureStore(import_features(tmp_path / "f.h5", tmp_path / "s", "hloc"))
    assert store.ids() == ("2.jpg", "db/1.jpg")
    got = store.read("db/1.jpg")
    np.testing.assert_array_equal(got.local.locations, [[1, 0], [3, 2], [5, 4]])
    np.testing.assert_array_equal(got.local.scores, [1, 1, 1])
    np.testing.assert_array_equal(got.local.scales, [1, 1, 1])
    np.testing.assert_allclose(got.global_descriptor, [0.6, 0.8], rtol=1e-6)
    assert store.read_local("2.jpg").dim == 4


def test_hostile_hloc_groups_fail_alone(tmp_path):
    (tmp_path / "secret").write_bytes(b"x" * 64)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["keypoints"] = np.ones((1, 2))
    with h5py.File(tmp_path / "f.h5", "w") as file:

        def group(name, **arrays):
            good = {"keypoints": np.ones((1, 2)), "descriptors": np.ones((2, 1))}
            for key, value in {**good, **arrays}.items():
                if value is not None:
                    file.create_group(name, track_order=False) if name not in file else None
                    file[name][key] = value

        group("good")
        group("shape", keypoints=np.ones((1, 3, 1)))
        group("count", keypoints=np.ones((2, 2)))
        group("nan", descriptors=np.full((2, 1), np.nan))
        group("text", scores=np.array([b"x"]))
        group("integers", keypoints=np.ones((1, 2), np.int64))
        group("absent", descriptors=None)
        group("soft", scores=h5py.SoftLink("/good/keypoints"))
        group("external", scores=h5py.ExternalLink(str(tmp_path / "other.h5"), "/keypoints"))
        file.create_dataset("huge/keypoints", (1 << 40, 2), "f4", chunks=(1024, 2))
        file.create_dataset(
            "raw/keypoints", (8, 2), "f4", external=[(str(tmp_path / "secret"), 0, 64)]
        )
    store = FeatureStore(import_features(tmp_path / "f.h5", tmp_path / "s", "hloc"))
    assert store.ids() == ("good",)
    expected = {
        "shape",
        "count",
        "nan",
        "text",
        "integers",
        "absent",
        "soft",
        "external",
        "huge",
        "raw",
    }
    assert set(store.failed()) == expected


@pytest.mark.parametrize("format", ["hloc", "npy", "delf"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x89HDF\r\n\x1a\n" + b"\0" * 100, None])
def test_files_of_another_kind(tmp_path, format, content):
    path = tmp_path / "f.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError):
        import_features(path, tmp_path / "s", format)
    assert not (tmp_path / "s").exists()


def test_pickles_are_refused(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "o.ids.json").write_text('["a"]')
    with pytest.raises(InputError, match="matrix of floats"):
        import_features(tmp_path / "o.npy", tmp_path / "s", "npy")


def _npy(shape):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return content.getvalue() + b"\0" * 16


@pytest.mark.parametrize("shape", [(1 << 50,), (1 << 62, 1 << 62), (5,), (-1,), (2, 1 << 40)])
def test_numpy_shapes_that_lie(tmp_path, shape):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("global_descriptor.npy", _npy(shape))
    with pytest.raises(InputError, match="whole"):
        npz.read_npz(tmp_path / "x.npz", ["global_descriptor"])
    (tmp_path / "x.npy").write_bytes(_npy(shape))
    (tmp_path / "x.ids.json").write_text("[]")
    with pytest.raises(InputError):
        numpy_files.open_npy(tmp_path / "x.npy")


def test_flipped_numpy_files_never_crash(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, global_descriptor=np.float32([1, 0]))
    raw = path.read_bytes()
    refused = 0
    for at in range(len(raw)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ (1 << at % 8)]) + raw[at + 1 :])
        try:
            npz.read_npz(path, ["global_descriptor"])
        except InputError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    "ids", ['["a"]', '{"a": 1}', '["a", "a"]', '["a", 1]', "[", "[" * 100_000, None]
)
def test_npy_with_wrong_ids(tmp_path, ids):
    np.save(tmp_path / "g.npy", np.eye(2))
    if ids is not None:
        (tmp_path / "g.ids.json").write_text(ids)
    with pytest.raises(InputError):
        import_features(tmp_path / "g.npy", tmp_path / "s", "npy")


def test_zero_vectors_fail_and_others_are_normalised(tmp_path):
    np.save(tmp_path / "g.npy", np.float64([[0, 0], [0, 2], [0.6, 0.8]]))
    (tmp_path / "g.ids.json").write_text('["zero", "two", "unit"]')
    store = FeatureStore(import_features(tmp_path / "g.npy", tmp_path / "s", "npy"))
    assert set(store.failed()) == {"zero"}
    np.testing.assert_array_equal(store.read("two").global_descriptor, [0, 1])
    np.testing.assert_array_equal(store.read("unit").global_descriptor, np.float32([0.6, 0.8]))


def test_nothing_to_import(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="an image with features"):
        import_features(tmp_path / "empty", tmp_path / "s", "delf")
    with pytest.raises(InputError, match="Did you mean 'hloc'"):
        import_features(tmp_path, tmp_path / "s", "hlocc")


def test_export_replaces_only_when_told(tmp_path, store):
    for format, name in [("npy", "g.npy"), ("hloc", "f.h5"), ("delf", "d")]:
        export_features(store, tmp_path / name, format)
        with pytest.raises(InputError, match="overwrite"):
            export_features(store, tmp_path / name, format)
        export_features(store, tmp_path / name, format, overwrite=True)
    with pytest.raises(InputError, match=r"end in .npy"):
        export_features(store, tmp_path / "g.bin", "npy")
    local = one_kind(tmp_path / "local", "local")
    with pytest.raises(InputError, match="global descriptors"):
        export_features(local, tmp_path / "l.npy", "npy")


@pytest.mark.parametrize("format", ["npy", "hloc", "delf"])
def test_names_with_backslashes_and_control_characters_are_exported(tmp_path, format):
    ids = [r"a\b.jpg", "a%5Cb.jpg", r"caf\xe9/é\n1.jpg", "plain/name.jpg", "plain/name.png"]
    ids.append("new\nline.jpg")
    store = FeatureStore(make(tmp_path / "s", ids))
    path = tmp_path / {"npy": "g.npy", "hloc": "f.h5"}.get(format, "folder")
    export_features(store, path, format)
    again = FeatureStore(import_features(path, tmp_path / "again", format))
    assert set(again.ids()) == set(ids)
    files = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
    assert not [name for name in files if "\\" in name or not name.isprintable()]


@pytest.mark.parametrize("bad", ["/etc/x", "../x", "a/../../x", "a//b", "./a", "a\\b", "a\0b", ""])
def test_paths_that_leave_the_folder(tmp_path, bad):
    with pytest.raises(InputError, match="relative path"):
        exchange_index.require_relative(bad)
    index = {"format": "delf_tf exported features", "fingerprint": "f", "files": {"a": bad}}
    (tmp_path / "delf_tf.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="relative path"):
        import_features(tmp_path, tmp_path / "s", "delf")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1}', "[" * 100_000])
def test_hostile_index(tmp_path, text):
    (tmp_path / "delf_tf.json").write_text(text)
    with pytest.raises(InputError, match="index must be"):
        import_features(tmp_path, tmp_path / "s", "delf")


def test_file_names():
    assert exchange_index.file_stems(["x/a.jpg", "b.PNG", "c", "d.e"]) == {
        "x/a.jpg": "x/a",
        "b.PNG": "b",
        "c": "c",
        "d.e": "d.e",
    }
    for clash in (["a.jpg", "a.png"], ["a", "a.jpg"], ["A.jpg", "a.jpg"]):
        assert exchange_index.file_stems(clash) == {one: one for one in clash}
    assert exchange_index.file_stems([]) == {}
