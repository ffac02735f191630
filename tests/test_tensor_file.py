"""The container: the safetensors library reads it; what lies about itself is refused."""

from __future__ import annotations

import io
import json
import zlib

import numpy as np
import pytest
from safetensors.numpy import load

from delf_tf import tensor_file
from delf_tf.checks import InputError

ARRAYS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.arange(3, dtype=np.uint8),
    "none": np.zeros((0, 5), np.float16),
    "i": np.array([-(1 << 40)], np.int64),
    "h": np.array([1.5, -2], np.float16),
    "j": np.array([-7], np.int8),
    "u": np.array([65535], np.uint16),
    "w": np.array([1 << 31], np.uint32),
}


def content(arrays=None, **metadata):
    file = io.BytesIO()
    tensor_file.write(file, ARRAYS if arrays is None else arrays, metadata)
    return file.getvalue()


def read(path):
    file = tensor_file.TensorFile(path)
    with file.open() as descriptor:
        return file.metadata, {one: file.read_checked(descriptor, one) for one in file.shapes}


def forged(change):
    """A file whose header is changed by `change`, with checksums that agree again."""
    raw = content({"a": ARRAYS["a"], "b": ARRAYS["b"]})
    length = int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8 : 8 + length])
    metadata = json.loads(entries.pop("__metadata__")["delf_tf"])
    metadata.pop("header_crc32")
    change(entries, metadata)

    def compact(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":"))

    metadata["header_crc32"] = zlib.crc32(compact([entries, metadata]).encode())
    header = compact({"__metadata__": {"delf_tf": compact(metadata)}, **entries}).encode()
    return len(header).to_bytes(8, "little") + header + raw[8 + length :]


def test_what_was_written_is_read(tmp_path):
    (tmp_path / "f").write_bytes(content(note="ä", number=[1, None]))
    metadata, arrays = read(tmp_path / "f")
    assert (metadata["note"], metadata["number"]) == ("ä", [1, None])
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_the_safetensors_library_reads_it():
    loaded = load(content())
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_bytes_do_not_depend_on_the_order_given():
    assert content(dict(reversed(ARRAYS.items())), x=1, y=2) == content(y=2, x=1)
    # Eight-byte items first, at a multiple of eight bytes: every array is aligned.
    raw = content()
    assert int.from_bytes(raw[:8], "little") % 8 == 0


def test_no_arrays(tmp_path):
    (tmp_path / "f").write_bytes(content({}))
    assert read(tmp_path / "f")[1] == {}


def test_reading_rows(tmp_path):
    (tmp_path / "f").write_bytes(content())
    file = tensor_file.TensorFile(tmp_path / "f")
    with file.open() as descriptor:
        np.testing.assert_array_equal(file.read(descriptor, "b", 1, 2), [[3, 4, 5]])
        assert file.read(descriptor, "b", 1, 1).shape == (0, 3)
        with pytest.raises(InputError, match="must hold the array 'x'"):
            file.read(descriptor, "x")


class _Halves:
    """An array of which half is in memory at a time."""

    def __init__(self, array):
        self.array, self.dtype, self.shape = array, array.dtype, array.shape

    def pieces(self):
        middle = len(self.array) // 2
        yield self.array[:middle]
        yield self.array[middle:]


def test_pieces_give_the_bytes_of_the_whole():
    assert content({"b": _Halves(ARRAYS["b"]), "none": _Halves(ARRAYS["none"])}) == content(
        {"b": ARRAYS["b"], "none": ARRAYS["none"]}
    )


def test_mapped_arrays_are_those_that_are_read(tmp_path):
    (tmp_path / "f").write_bytes(content())
    file = tensor_file.TensorFile(tmp_path / "f")
    for name, array in ARRAYS.items():
        mapped = file.map(name)
        assert mapped.dtype == array.dtype
        np.testing.assert_array_equal(mapped, array)
    with pytest.raises(ValueError, match="read-only"):
        file.map("b")[0, 0] = 1


def test_checking_finds_a_flipped_bit_in_any_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "_CHUNK_BYTES", 12)
    raw = content()
    for position in range(len(raw) - sum(one.nbytes for one in ARRAYS.values()), len(raw)):
        (tmp_path / "f").write_bytes(
            raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]
        )
        file = tensor_file.TensorFile(tmp_path / "f")
        with file.open() as descriptor, pytest.raises(InputError, match="checksum differs"):
            for name in file.shapes:
                file.check(descriptor, name)


def test_checking_many_rows_of_no_width_ends(tmp_path):
    (tmp_path / "f").write_bytes(content({"none": np.zeros((1 << 40, 0), np.uint8)}))
    file = tensor_file.TensorFile(tmp_path / "f")
    with file.open() as descriptor:
        file.check(descriptor, "none")
    assert file.map("none").shape == (1 << 40, 0)


def test_crc_over_several_arrays():
    parts = (np.arange(3, dtype=np.uint8), np.zeros((0, 2)), np.arange(4, dtype=np.uint8))
    assert tensor_file.crc32(*parts) == zlib.crc32(bytes([0, 1, 2, 0, 1, 2, 3]))
    assert tensor_file.crc32() == 0


def test_a_forged_header_without_a_lie_is_read(tmp_path):
    (tmp_path / "f").write_bytes(forged(lambda entries, metadata: None))
    assert set(read(tmp_path / "f")[1]) == {"a", "b"}


def _set(name, field, value):
    return lambda entries, metadata: entries[name].update({field: value})


@pytest.mark.parametrize(
    "change",
    [
        _set("b", "shape", [2, 4]),
        _set("b", "shape", [-2, -3]),
        _set("b", "shape", [2.0, 3]),
        _set("b", "shape", []),
        _set("b", "shape", "23"),
        _set("b", "shape", [1 << 62, 1 << 62]),
        _set("b", "dtype", "F128"),
        _set("b", "dtype", ["F32"]),
        _set("b", "data_offsets", [0, 23]),
        _set("b", "data_offsets", [24, 0]),
        _set("b", "data_offsets", [0]),
        _set("b", "data_offsets", None),
        _set("a", "data_offsets", [0, 3]),
        _set("a", "data_offsets", [25, 28]),
        _set("a", "shape", [4]),
        lambda entries, metadata: entries.pop("a"),
        lambda entries, metadata: entries.update(c=entries["a"]),
        lambda entries, metadata: entries.update(a=3),
        lambda entries, metadata: metadata["crc32"].update(a=1),
        lambda entries, metadata: metadata["crc32"].pop("a"),
        lambda entries, metadata: metadata.update(crc32=None),
        lambda entries, metadata: entries.update(
            a={"dtype": "U8", "shape": [0, 1 << 62], "data_offsets": [24, 24]},
            c={"dtype": "U8", "shape": [3], "data_offsets": [24, 27]},
        ),
    ],
)
def test_headers_that_lie(tmp_path, change):
    (tmp_path / "f").write_bytes(forged(change))
    with pytest.raises(InputError):
        read(tmp_path / "f")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 8,
        (1 << 40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
        (20).to_bytes(8, "little") + b'{"__metadata__": 1} ',
    ],
)
def test_files_of_another_kind(tmp_path, raw):
    (tmp_path / "f").write_bytes(raw)
    with pytest.raises(InputError, match="damaged"):
        tensor_file.TensorFile(tmp_path / "f")


def test_absent_file(tmp_path):
    with pytest.raises(InputError, match="must be readable"):
        tensor_file.TensorFile(tmp_path / "absent")
