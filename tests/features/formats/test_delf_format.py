"""The original's files: its golden files read exactly and are written back to the same bytes."""

from __future__ import annotations

import time

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.features.formats import delf_format
from delf_tf.protos import datum_pb2, feature_pb2
from delf_tf.types import LocalFeatures

DATUMS = ["f16", "f32_1d", "f32_2d", "f64_3d", "u8", "u16", "u32", "empty", "empty2"]


@pytest.fixture
def golden(golden_dir):
    return golden_dir / "delf"


@pytest.mark.parametrize("name", DATUMS)
def test_golden_datum(golden, tmp_path, name):
    folder = golden / "io"
    array = delf_format.read_datum(folder / f"{name}.datum")
    expected = np.load(folder / f"{name}_readback.npy")
    assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(array, expected)
    for given in (array, np.load(folder / f"{name}.npy")):
        written = delf_format.write_datum(tmp_path / "d.datum", given)
        assert written.read_bytes() == (folder / f"{name}.datum").read_bytes()


@pytest.mark.parametrize("name", ["feat128", "feat40", "feat_none"])
def test_golden_delf(golden, tmp_path, name):
    expected = np.load(golden / "io" / f"{name}.npz")
    features = delf_format.read_delf(
        golden / "io" / f"{name}.delf", dim=128 if "128" in name else None
    )
    assert len(features) == len(expected["scales"])
    np.testing.assert_array_equal(features.locations, expected["rb_locations"].reshape(-1, 2))
    np.testing.assert_array_equal(features.scales, expected["rb_scales"])
    np.testing.assert_array_equal(features.scores, expected["rb_attention"])
    if len(features):
        np.testing.assert_array_equal(features.descriptors, expected["rb_descriptors"])
    assert features.descriptors.dtype == np.float32
    given = LocalFeatures(
        expected["locations_yx"], expected["descriptors"], expected["attention"], expected["scales"]
    )
    for one in (features, given):
        written = delf_format.write_delf(tmp_path / "f.delf", one)
        assert written.read_bytes() == (golden / "io" / f"{name}.delf").read_bytes()


def test_a_real_file_of_the_published_model(shared, tmp_path):
    path = shared / "golden" / "delf" / "real" / "love.delf"
    features = delf_format.read_delf(path)
    assert (len(features), features.dim) == (546, 40)
    np.testing.assert_array_equal(features.locations[0], [256, 416])
    assert features.scales[0] == 0.5
    np.testing.assert_allclose(features.scores[0], 429.57794)
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)
    written = delf_format.write_delf(tmp_path / "f.delf", features)
    assert written.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["mean", "pca_variances"])
def test_the_published_models_pca(golden, tmp_path, name):
    path = golden / "real" / f"{name}.datum"
    array = delf_format.read_datum(path)
    assert array.shape == (1, 1024)
    assert delf_format.write_datum(tmp_path / "d.datum", array).read_bytes() == path.read_bytes()


def test_bytes_by_hand(tmp_path):
    written = delf_format.write_datum(tmp_path / "d", np.float32([2.0])).read_bytes()
    assert written == b"\n\x03\n\x01\x01\x12\x06\n\x04\x00\x00\x00\x40"
    assert (
        delf_format.write_datum(tmp_path / "d", np.zeros(0)).read_bytes()
        == b"\n\x03\n\x01\x00\x12\x00"
    )


def test_no_features_need_no_bytes(tmp_path):
    path = delf_format.write_delf(tmp_path / "f.delf", LocalFeatures.empty(40))
    assert path.read_bytes() == b""
    assert delf_format.read_delf(path).descriptors.shape == (0, 0)
    assert delf_format.read_delf(path, dim=40).descriptors.shape == (0, 40)


def test_float16_descriptors_are_written_as_floats(tmp_path):
    half = LocalFeatures([[1, 2]], np.float16([[0.1, 0.2]]), [3], [1])
    back = delf_format.read_delf(delf_format.write_delf(tmp_path / "f", half))
    np.testing.assert_array_equal(back.descriptors, half.descriptors.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, bool, complex, object, "U3"])
def test_other_dtypes_are_refused(tmp_path, dtype):
    with pytest.raises(InputError, match="floats or of unsigned"):
        delf_format.write_datum(tmp_path / "d", np.zeros(3, dtype))
    assert not (tmp_path / "d").exists()


def test_integers_above_32_bits_are_refused(tmp_path):
    with pytest.raises(InputError, match="32 bits"):
        delf_format.write_datum(tmp_path / "d", np.uint64([1 << 32]))
    path = delf_format.write_datum(tmp_path / "d", np.uint64([(1 << 32) - 1]))
    assert delf_format.read_datum(path)[0] == 0xFFFFFFFF


def _datum(shape, values):
    datum = datum_pb2.DatumProto()
    datum.shape.dim.extend(shape)
    datum.float_list.value.extend(values)
    return datum


@pytest.mark.parametrize(
    "shape",
    [[3], [2, 2], [], [-1], [-3, -1], [1 << 62, 1 << 62], [0, 1 << 62], [1 << 32, 1 << 32], [3, 0]],
)
def test_shapes_that_lie(tmp_path, shape):
    path = tmp_path / "d.datum"
    values = [1.0] if shape == [3] else [1.0, 2.0, 3.0]
    path.write_bytes(_datum(shape, values).SerializeToString())
    with pytest.raises(InputError, match="shape must hold exactly its values"):
        delf_format.read_datum(path)


def test_scalar_datum(tmp_path):
    path = delf_format.write_datum(tmp_path / "d", np.float32(3))
    assert delf_format.read_datum(path) == np.float32(3)


READERS = {
    "datum": delf_format.read_datum,
    "delf": delf_format.read_delf,
}


def _write_each(folder):
    features = LocalFeatures([[1, 2], [3, 4]], [[1, 0], [0, 1]], [5, 6], [1, 2])
    return {
        "datum": delf_format.write_datum(folder / "datum", np.arange(6, dtype=np.float32)),
        "delf": delf_format.write_delf(folder / "delf", features),
    }


@pytest.mark.parametrize("kind", READERS)
def test_truncated_flipped_and_random_files_never_crash(tmp_path, kind):
    path = _write_each(tmp_path)[kind]
    raw = path.read_bytes()
    rng = np.random.default_rng(0)
    changed = [raw[:length] for length in range(len(raw))]
    changed += [
        bytes(byte ^ (i == at) * (1 << at % 8) for i, byte in enumerate(raw))
        for at in range(len(raw))
    ]
    changed += [rng.bytes(40) for _ in range(200)]
    refused = 0
    for one in changed:
        path.write_bytes(one)
        try:
            READERS[kind](path)
        except InputError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("kind", READERS)
def test_absent_files_and_folders(tmp_path, kind):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="must be readable"):
            READERS[kind](path)


def test_empty_file_is_no_datum(tmp_path):
    (tmp_path / "d").write_bytes(b"")
    with pytest.raises(InputError, match="list of values"):
        delf_format.read_datum(tmp_path / "d")


def test_huge_files_are_refused_quickly(tmp_path):
    path = tmp_path / "huge.delf"
    with path.open("wb") as file:
        file.truncate(1 << 31)
    start = time.monotonic()
    with pytest.raises(InputError, match="no longer than"):
        delf_format.read_delf(path)
    assert time.monotonic() - start < 20


def _feature(**changes):
    fields = {"descriptor": _datum([2], [1, 0]), "x": 1, "y": 2, "scale": 1, "strength": 3}
    return feature_pb2.DelfFeature(**{**fields, **changes})


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"descriptor": _datum([3], [1, 0, 0])}, "vectors of one width"),
        ({"descriptor": _datum([5], [1, 0])}, "shape must hold"),
        ({"descriptor": None}, "list of values"),
        ({"scale": 0}, "scales must be positive"),
        ({"x": float("nan")}, "finite"),
        ({"strength": float("inf")}, "finite"),
        ({"descriptor": _datum([2], [float("nan"), 0])}, "finite"),
    ],
)
def test_features_that_cannot_be(tmp_path, second, words):
    message = feature_pb2.DelfFeatures(feature=[_feature(), _feature(**second)])
    (tmp_path / "f.delf").write_bytes(message.SerializeToString())
    with pytest.raises(InputError, match=words):
        delf_format.read_delf(tmp_path / "f.delf")


def test_matrices_are_no_descriptors(tmp_path):
    message = feature_pb2.DelfFeatures(feature=[_feature(descriptor=_datum([2, 1], [1, 0]))])
    (tmp_path / "f.delf").write_bytes(message.SerializeToString())
    with pytest.raises(InputError, match="vectors of one width"):
        delf_format.read_delf(tmp_path / "f.delf")


def test_width_is_checked(tmp_path):
    path = _write_each(tmp_path)["delf"]
    assert delf_format.read_delf(path, dim=2).dim == 2
    with pytest.raises(InputError, match=r"width 40.*width=2"):
        delf_format.read_delf(path, dim=40)


def test_locations_of_the_original_by_hand():
    # Stride 16, cell (2, 3), in an image enlarged by s = 1/2 (feature scale 2): the original says
    # (64, 96); the centre of input pixel 32 of the shrunk image is pixel 64.5 of the original.
    original = LocalFeatures([[64, 96]], [[1]], [1], [2])
    centre = delf_format.from_original_locations(original)
    np.testing.assert_array_equal(centre.locations, [[64.5, 96.5]])
    back = delf_format.to_original_locations(centre)
    np.testing.assert_array_equal(back.locations, original.locations)
    # With SAME padding the centre of cell 0 is input pixel 3: (32 + 3 + ½) · 2 - ½.
    same = delf_format.from_original_locations(original, cell_centre_px=3)
    np.testing.assert_array_equal(same.locations, [[70.5, 102.5]])


def test_many_empty_items_are_refused_before_they_are_parsed(tmp_path, monkeypatch):
    path = tmp_path / "x"
    monkeypatch.setattr(delf_format, "MAX_ITEMS", 100)
    path.write_bytes(b"\n\0" * 101)
    monkeypatch.setattr(feature_pb2.DelfFeatures, "ParseFromString", None, raising=False)
    with pytest.raises(InputError, match="at most 100 items"):
        delf_format.read_delf(path)


@pytest.mark.parametrize(
    "content", [b"\x8a\0\0" * 3, b"\x12\0", b"\n\x05abc", b"\n\x80", b"\n" + b"\xff" * 12, b"\n"]
)
def test_lists_of_anything_else_are_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match="must be a whole"):
        delf_format.read_delf(tmp_path / "x")


def test_a_shape_of_many_sides_is_refused(tmp_path):
    datum = datum_pb2.DatumProto()
    datum.shape.dim.extend([1] * 40)
    datum.float_list.value.append(1.0)
    (tmp_path / "x").write_bytes(datum.SerializeToString())
    with pytest.raises(InputError, match="exactly its values"):
        delf_format.read_datum(tmp_path / "x")
