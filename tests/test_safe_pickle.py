from __future__ import annotations

import collections
import os
import pickle
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_tf import safe_pickle
from delf_tf.checks import InputError

VALUES = {
    "plain": [1, -2, 2.5, None, True, False, 10**30, "é", b"", b"xyz\xff"],
    "tuples": ((), (1,), (1, 2), (1, 2, 3), tuple(range(9))),
    "nested": {"a": [{"b": ([1],)}], 3: "three"},
    "ordered": collections.OrderedDict(x=1, y=[2]),
}
ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
    "strided": np.arange(12)[::3],
    "empty": np.zeros((0, 3), np.float16),
    "scalar_array": np.array(7, np.uint8),
    "scalar": np.float32(3.5),
    "flags": np.array([True, False]),
    "names": np.array(["ab", "c"]),
    "bytes": np.array([b"ab", b"c"]),
    "complex": np.array([1 + 2j]),
}


@pytest.mark.parametrize("protocol", range(6))
def test_reads_what_pickle_writes(tmp_path, protocol):
    path = tmp_path / "values.pkl"
    path.write_bytes(pickle.dumps({**VALUES, **ARRAYS, "again": ARRAYS["matrix"]}, protocol))
    got = safe_pickle.load(path)
    assert {key: got[key] for key in VALUES} == {**VALUES, "ordered": dict(VALUES["ordered"])}
    for key, want in ARRAYS.items():
        np.testing.assert_array_equal(got[key], want)
        assert np.asarray(got[key]).dtype.newbyteorder("=") == want.dtype.newbyteorder("=")
        assert np.asarray(got[key]).shape == want.shape
    assert got["again"] is got["matrix"]
    assert got["matrix"].flags.writeable


def test_reads_python_2_strings():
    assert safe_pickle.loads(b"(lp0\nS'abc'\np1\naU\x03d\xe9fa.") == ["abc", "d\xe9f"]


class _Call:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def test_tensors_as_paddle_wraps_them():
    tensor = _Call(eval, "data", {"data": ARRAYS["matrix"]})
    got = safe_pickle.loads(pickle.dumps({"w": tensor, "p": _Call(tuple, ["name", 3])}, 2))
    np.testing.assert_array_equal(got["w"], ARRAYS["matrix"])
    assert got["p"] == ("name", 3)


EXPLOITS = {
    "os.system": pickle.dumps(_Call(os.system, "touch {marker}")),
    "system, protocol 0": b"cos\nsystem\n(S'touch {marker}'\ntR.",
    "eval": pickle.dumps(_Call(eval, "__import__('os').system('touch {marker}')")),
    "eval, as of paddle": pickle.dumps(_Call(eval, "data", {"data": 1, "__builtins__": {}})),
    "exec": pickle.dumps(_Call(exec, "open('{marker}', 'w')")),
    "subprocess": pickle.dumps(_Call(subprocess.call, ["touch", "{marker}"])),
    "open": pickle.dumps(_Call(open, "{marker}", "w")),
    "getattr": pickle.dumps(_Call(getattr, 1, "real")),
    "instance": b"(S'touch {marker}'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'touch {marker}'\no.",
    "numpy load": b"cnumpy\nload\n(S'{marker}'\ntR.",
    "numpy frombuffer by another name": b"cnumpy.lib.npyio\nloadtxt\n(S'{marker}'\ntR.",
    "name alone": pickle.dumps(os.system),
    "name in a list": pickle.dumps([os.system]),
    "objects in an array": pickle.dumps(np.array([{}], object)),
    "records in an array": pickle.dumps(np.zeros(2, [("a", "f4"), ("b", "O")])),
    "another codec": b"c_codecs\nencode\n(S'aaaa'\nS'zlib'\ntR.",
    "persistent id": b"Pmarker\n.",
    "extension": b"\x80\x02\x82\x01.",
    "class": pickle.dumps(collections.Counter),
    "state": b"]}S'a'\nK\x01sb.",
    "set": pickle.dumps({1}),
}


@pytest.mark.parametrize("name", EXPLOITS)
def test_exploits_are_refused(tmp_path, name):
    marker = tmp_path / "owned"
    # The placeholder's length must stay, or length-prefixed strings would break for another reason.
    path = tmp_path / "evil.pkl"
    path.write_bytes(EXPLOITS[name].replace(b"{marker}", b"./owned!"))
    with pytest.raises(InputError, match=r"must hold only containers.*Nothing in it was run"):
        safe_pickle.load(path)
    assert not marker.exists()
    assert not os.path.exists("owned!")  # noqa: PTH110


def limited(code):
    """Runs code with 1 GiB of address space above what imports need; returns its seconds."""
    script = (
        "import numpy, resource\nfrom delf_tf import safe_pickle\n"
        "from delf_tf.checks import InputError\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * 4096 + (1 << 30)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
        f"try:\n    safe_pickle.loads({code})\nexcept InputError as error:\n    print(error)\n"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True, timeout=60
    )
    assert "must" in done.stdout
    return time.monotonic() - start


def test_huge_allocations_are_refused():
    array = pickle.dumps(np.zeros(1), 2).replace(b"K\x01\x85", b"J\xff\xff\xff\x7f\x85")
    sizes = struct.pack("<Q", 1 << 40)
    attacks = [b"\x80\x05\x96" + sizes, b"\x8e" + sizes, b"]r\xff\xff\xff\x7f0", array]
    attacks.append(b"cnumpy\nndarray\n((I2000000000\ntS'f8'\ntR.")
    attacks.append(b"c__builtin__\nbytes\n(I9999999999\ntR.")
    attacks.append(b"c__builtin__\nbytearray\n(I9999999999\ntR.")
    calls = ", ".join(map(repr, attacks))
    for index in range(len(attacks)):
        assert limited(f"[{calls}][{index}]") < 60


def test_deep_nesting_is_refused():
    for deep in (b"N" + b"\x85" * 500_000 + b".", b"]" * 50_000 + b"a" * 49_999 + b"."):
        with pytest.raises(InputError, match="nested over 16 deep"):
            safe_pickle.loads(deep)
    laughs = b"](K\x01K\x01K\x01e\x85q\x00" + b"(h\x00h\x00h\x00tq\x00" * 40 + b"."
    with pytest.raises(InputError, match="nested over 16 deep"):
        safe_pickle.loads(laughs)
    with pytest.raises(InputError, match="nested over 16 deep"):
        safe_pickle.loads(b"]q\x00h\x00a.")


# Python expressions, for they are made where memory is limited.
BOMBS = {
    "shared tuples": "b')' + b''.join(b'q%c(' % i + b'h%c' % i * 16 + b't' for i in range(8)) "
    "+ b'.'",
    "shared dicts": "b'}' + b''.join(b'q%c}(' % i + b''.join(b'K%ch%c' % (j, i) for j in range(9)) "
    "+ b'u' for i in range(12)) + b'.'",
    "tuples of a list": "b'cbuiltins\\ntuple\\nq\\0](' + b'N' * 100_000 + b'e\\x85q\\1](' "
    "+ b'h\\0h\\1R' * 90_000 + b'e.'",
    "calls with many arguments": "b'cnumpy.core.multiarray\\n_reconstruct\\nq\\0(' "
    "+ b'N' * 100_000 + b'tq\\1' + b'h\\0h\\1R0' * 200_000 + b'N.'",
    "one string, encoded often": "b'c_codecs\\nencode\\nq\\0X\\0\\0\\x10\\0' + b'a' * (1 << 20) "
    "+ b'\\x85q\\1](' + b'h\\0h\\1R' * 100_000 + b'e.'",
    "one string, used often": "b']q\\0X\\0\\0\\x10\\0' + b'a' * (1 << 20) + b'q\\1](' "
    "+ b'h\\1' * 1_000_000 + b'e.'",
    "empty lists": "b'](' + b']' * 30_000_000 + b'e.'",
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_of_much_are_refused(name):
    limited(BOMBS[name])


def test_sharing_as_ground_truths_have_it_is_read():
    rows = list(range(300))
    shared = {"gnd": [{"easy": rows, "hard": rows, "bbx": (1.0, 2.0, 3.0, 4.0)}] * 5}
    assert safe_pickle.loads(pickle.dumps(shared, 2)) == shared


def test_keys_that_could_be_made_to_collide_are_refused():
    with pytest.raises(InputError, match="a key of type int"):
        safe_pickle.loads(pickle.dumps({(1 << 61) - 1: 1}))
    with pytest.raises(InputError, match="a key of type float"):
        safe_pickle.loads(pickle.dumps({0.5: 1}))


def test_integers_too_long_to_be_printed_are_refused():
    with pytest.raises(InputError, match="over 128 bits"):
        safe_pickle.loads(pickle.dumps([1 << 20_000]))


def test_damaged_files(tmp_path):
    whole = pickle.dumps({**VALUES, **ARRAYS})
    path = tmp_path / "cut.pkl"
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.pkl"):
            safe_pickle.load(path)
    with pytest.raises(InputError, match="must exist"):
        safe_pickle.load(tmp_path / "missing.pkl")
    with pytest.raises(InputError, match="at most 10 bytes"):
        safe_pickle.load(path, max_bytes=10)


def test_impossible_letters_and_truth_values():
    raw = np.array([0x110000, 97], np.uint32).view("U2")
    with pytest.raises(InputError, match="no Unicode"):
        safe_pickle.loads(pickle.dumps(raw, 2))
    flags = safe_pickle.loads(pickle.dumps(np.array([0, 7], np.uint8).view(bool), 2))
    assert flags.view(np.uint8).tolist() == [0, 1]


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_data_or_an_input_error(data):
    try:
        safe_pickle.loads(data)
    except InputError:
        return
    pickle.loads(data)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 100_000), replacement=st.binary(min_size=1, max_size=6))
def test_any_damage_is_data_or_an_input_error(at, replacement):
    data = bytearray(pickle.dumps({**VALUES, **ARRAYS}, 2))
    at %= len(data)
    data[at : at + len(replacement)] = replacement
    try:
        assert isinstance(repr(safe_pickle.loads(bytes(data))), str)
    except InputError as error:
        assert len(str(error)) < 600
