from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import scipy.io

from delf_tf.checks import InputError
from delf_tf.datasets import mat_file
from delf_tf.datasets.mat_file import read_mat

HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


def save(tmp_path, content, **options):
    path = tmp_path / "content.mat"
    scipy.io.savemat(path, content, **options)
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_reads_what_scipy_writes(tmp_path, compressed):
    records = np.zeros((1, 2), [("rows", object), ("name", object)])
    records[0, 0] = (np.array([[3.0, 1.0]]), "first")
    records[0, 1] = (np.zeros((0, 0)), "")
    content = {
        "numbers": np.arange(6, dtype=np.int16).reshape(2, 3),
        "cells": np.array(["a", "bcé", np.array([1.5])], object)[None],
        "records": records,
        "text": "hello",
        "nothing": np.zeros((0, 3)),
        "logical": np.array([[True, False]]),
        "v": np.array([[2**40]], np.int64),
    }
    got = read_mat(save(tmp_path, content, do_compression=compressed))
    assert got["numbers"].tolist() == [0, 3, 1, 4, 2, 5]
    assert got["cells"][:2] == ["a", "bcé"]
    assert got["cells"][2].tolist() == [1.5]
    assert got["records"][0]["rows"].tolist() == [3.0, 1.0]
    assert got["records"][0]["name"] == "first"
    assert got["records"][1]["rows"].shape == (0,)
    assert got["text"] == "hello"
    assert got["nothing"].shape == (0,)
    assert got["logical"].tolist() == [1, 0]
    assert got["v"].tolist() == [2**40]
    assert set(got) == set(content)


def test_agrees_with_scipy_on_the_golden_file(golden_dir):
    path = golden_dir / "delf" / "revisitop" / "gnd_synth.mat"
    got, want = read_mat(path), scipy.io.loadmat(path, simplify_cells=True)
    assert got["imlist"] == want["imlist"].tolist()
    assert got["qimlist"] == want["qimlist"].tolist()
    assert len(got["gnd"]) == len(want["gnd"])
    for one, other in zip(got["gnd"], want["gnd"]):
        for key in ("easy", "hard", "junk", "bbx"):
            np.testing.assert_array_equal(one[key], np.atleast_1d(other[key]))


def test_big_endian(tmp_path):
    def element(kind, body):
        return struct.pack(">II", kind, len(body)) + body + b"\0" * (-len(body) % 8)

    parts = element(6, struct.pack(">II", 6, 0)) + element(5, struct.pack(">ii", 1, 2))
    parts += element(1, b"x") + element(9, struct.pack(">dd", 1.5, -2))
    path = tmp_path / "big.mat"
    path.write_bytes(HEADER[:124] + b"\x01\x00MI" + element(14, parts))
    assert read_mat(path)["x"].tolist() == [1.5, -2]


def test_empty_file_of_format_5(tmp_path):
    path = tmp_path / "empty.mat"
    path.write_bytes(HEADER)
    assert read_mat(path) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        HEADER[:100],
        HEADER + b"\x0e\0\0\0",
        HEADER + struct.pack("<II", 14, 1 << 30),
        HEADER + struct.pack("<II", 9, 8) + b"\0" * 8,
        HEADER + struct.pack("<II", 15, 4) + b"junk",
        HEADER[:124] + b"\x00\x02IM",
    ],
)
def test_damaged_files(tmp_path, content):
    path = tmp_path / "bad.mat"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"of format 5.*bad\.mat"):
        read_mat(path)


def test_what_is_not_read(tmp_path):
    with pytest.raises(InputError, match="must exist"):
        read_mat(tmp_path / "missing.mat")
    with pytest.raises(InputError, match="several rows"):
        read_mat(save(tmp_path, {"text": np.array(["ab", "cd"])}))
    with pytest.raises(InputError, match="class 5"):
        import scipy.sparse

        read_mat(save(tmp_path, {"sparse": scipy.sparse.eye(3)}))
    nested = np.array([[1.0]])
    for _ in range(12):
        nested = np.array([nested, None], object)[:1]
    with pytest.raises(InputError, match="too deep"):
        read_mat(save(tmp_path, {"nested": nested}))
    path = tmp_path / "new.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    with pytest.raises(InputError, match="Save it with -v7"):
        read_mat(path)


def test_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mat_file, "_MAX_BYTES", 1 << 20)
    body = zlib.compress(b"\0" * (1 << 24))
    path = tmp_path / "bomb.mat"
    path.write_bytes(HEADER + struct.pack("<II", 15, len(body)) + body)
    with pytest.raises(InputError, match="over 1048576 bytes when inflated"):
        read_mat(path)
    path.write_bytes(HEADER + b"\0" * (1 << 20))
    with pytest.raises(InputError, match="too large"):
        read_mat(path)


def test_sizes_that_are_only_claimed(tmp_path):
    """Cells and structures of two thousand million elements, in a few bytes."""

    def element(kind, body):
        return struct.pack("<II", kind, len(body)) + body + b"\0" * (-len(body) % 8)

    shape = element(5, struct.pack("<ii", 1, 2**31 - 1))
    for kind in (1, 2, 6):
        fields = element(5, struct.pack("<i", 1)) + element(1, b"") if kind == 2 else b""
        parts = element(6, struct.pack("<II", kind, 0)) + shape + element(1, b"x") + fields
        path = tmp_path / "claim.mat"
        path.write_bytes(HEADER + element(14, parts + element(14, b"") * 3))
        with pytest.raises(InputError, match="must be whole"):
            read_mat(path)
