"""The one reader of .npz: what NumPy writes comes back, what lies is refused before it is made."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from delf_tf import npz
from delf_tf.checks import InputError

ARRAYS = {
    "numbers": np.arange(6, dtype=np.int16).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "text": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "truth": np.array([True, False]),
    "none": np.zeros((0, 3), np.float16),
    "one": np.array(7),
}


def npy(descr="<f4", shape=(1,), content=b"\0\0\0\0"):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content


def archive(path, *members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path, save):
    save(tmp_path / "x.npz", **ARRAYS)
    with npz.NpzReader(tmp_path / "x.npz") as reader:
        assert reader.names == tuple(ARRAYS)
        for name, want in ARRAYS.items():
            assert reader.header(name) == (want.shape, want.dtype)
            np.testing.assert_array_equal(reader.array(name), want, strict=True)


def test_text_beside_arrays(tmp_path):
    arrays = {name: ARRAYS[name] for name in ("numbers", "fortran")}
    path = npz.write_with_text(tmp_path / "a.npz", arrays, "facts.json", "é")
    with npz.NpzReader(path) as reader:
        assert reader.names == ("fortran", "numbers")
        assert reader.text("facts.json") == "é"
        with pytest.raises(InputError, match="at most 1 bytes"):
            reader.text("facts.json", 1)
    again = npz.write_with_text(
        tmp_path / "b.npz", dict(reversed(arrays.items())), "facts.json", "é"
    )
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        npy(shape="((1,),)"),
        npy(shape=(-1,)),
        npy(shape=(-1, -1)),
        npy(shape=(1 << 40,)),
        npy(shape=(1 << 62, 1 << 62)),
        npy(shape="(1,) * 3"),
        npy(shape="(" * 5000),
        npy(descr="<U2147483647"),
        npy(descr="<U1073741824"),
        npy(descr="S0", shape=(1 << 40,), content=b""),
        npy(descr="|O"),
        npy(descr=[("a", "<f4")]),
        npy(descr="<M8[s]", content=b"\0" * 8),
        npy(content=b"\0" * 3),
        npy(content=b"\0" * 5),
        npy()[:20],
        b"\x93NUMPY\x03\x00" + npy()[8:],
        b"",
    ],
)
def test_headers_that_lie_are_refused(tmp_path, content):
    path = archive(tmp_path / "x.npz", ("x.npy", content))
    with pytest.raises(InputError, match=r"must be a whole \.npz file.*part='x'"):
        npz.read_npz(path, ("x",))


def test_what_is_no_archive_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"must exist.*Search again"):
        npz.NpzReader(tmp_path / "x.npz", hint="Search again.")
    for content in (b"", b"PK\5\6" + b"\0" * 17, b"PK\5\6" + b"\xff" * 18, b"no zip"):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"must be a whole \.npz file.*Search again"):
            npz.NpzReader(tmp_path / "x.npz", hint="Search again.")


def test_names_held_twice_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = archive(tmp_path / "x.npz", ("x.npy", npy()), ("x.npy", npy()))
    with pytest.raises(InputError, match="each of at most 100000 names once"):
        npz.NpzReader(path)


def test_missing_arrays_are_named(tmp_path):
    path = archive(tmp_path / "x.npz", ("x.npy", npy()))
    with pytest.raises(InputError, match=r"every array.*missing=\['y'\]"):
        npz.read_npz(path, ("x", "y"))


def test_small_files_unpack_to_little(tmp_path):
    content = npy(shape=(1 << 23,), content=b"\0" * (1 << 25))
    path = archive(tmp_path / "x.npz", ("x.npy", content), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="must take at most 16777216 bytes"):
        npz.read_npz(path, ("x",))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_numpy_does_not_write_are_refused(tmp_path, method):
    path = archive(tmp_path / "x.npz", ("x.npy", npy()), method=method)
    with pytest.raises(InputError, match="stored or deflated"):
        npz.read_npz(path, ("x",))


def test_sizes_that_the_directory_lies_about(tmp_path):
    """A directory may promise what the members do not hold; nothing is allocated for it."""
    path = archive(tmp_path / "x.npz", ("x.npy", npy(shape=(1 << 30,))))
    raw = bytearray(path.read_bytes())
    promised = len(npy(shape=(1 << 30,), content=b"")) + (1 << 32)
    at = raw.index(b"PK\1\2") + 20
    raw[at : at + 8] = (promised & 0xFFFFFFFF).to_bytes(4, "little") * 2
    path.write_bytes(raw)
    script = (
        "import resource, sys\nfrom delf_tf import npz\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 28),) * 2)\n"
        "try:\n    npz.read_npz(sys.argv[1], ('x',))\n"
        "except ValueError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, check=True, text=True
    )
    assert "must be a whole .npz file" in done.stdout


def test_flipped_bits_never_crash(tmp_path):
    content = io.BytesIO()
    np.savez(content, **ARRAYS)
    whole, refused = content.getvalue(), 0
    path = tmp_path / "x.npz"
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        try:
            got = npz.read_npz(path, tuple(ARRAYS))
        except InputError:
            refused += 1
        else:
            for name, want in ARRAYS.items():
                np.testing.assert_array_equal(got[name], want)
    assert refused > len(whole) / 6
