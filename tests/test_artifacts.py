from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from delf_tf import artifacts


def test_atomic_write_replaces_whole_files(tmp_path):
    path = tmp_path / "new" / "a.bin"
    artifacts.write_bytes(path, b"one")
    with artifacts.atomic_write(path) as file:
        file.write(b"two")
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]


def test_atomic_write_leaves_nothing_behind_on_error(tmp_path):
    path = tmp_path / "a.bin"
    artifacts.write_bytes(path, b"old")
    with pytest.raises(RuntimeError, match="stop"), artifacts.atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError("stop")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    artifacts.write_bytes(path, b"old")
    script = (
        "import os, signal\nfrom delf_tf import artifacts\n"
        f"with artifacts.atomic_write({str(path)!r}) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    code = subprocess.run([sys.executable, "-c", script], check=False).returncode
    assert code == -signal.SIGKILL
    assert path.read_bytes() == b"old"


_WRITER = """
import sys
from delf_tf import artifacts
with artifacts.atomic_write(sys.argv[1]) as file:
    file.write(b"written")
    print("open", flush=True)
    sys.stdin.readline()
"""


def _start_writer(path):
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"open\n"
    return process


def test_what_killed_writers_left_goes_and_what_others_write_stays(tmp_path):
    (tmp_path / ".hidden.tmp").touch()
    (tmp_path / ".folder.0123abcd.tmp").mkdir()
    killed, living = (_start_writer(tmp_path / name) for name in ("a\n.bin", "b.bin"))
    killed.kill()
    killed.communicate()
    assert len(list(tmp_path.glob(".*.tmp"))) == 4
    artifacts.write_bytes(tmp_path / "c.bin", b"new")
    left = {one.name for one in tmp_path.glob(".*.tmp")}
    assert len(left) == 3
    assert {".hidden.tmp", ".folder.0123abcd.tmp"} < left
    living.communicate(b"\n")
    assert living.returncode == 0
    assert (tmp_path / "b.bin").read_bytes() == b"written"


def test_written_files_respect_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        artifacts.write_text(tmp_path / "a.txt", "ü")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "ü"


def test_json_is_strict(tmp_path):
    artifacts.write_json(tmp_path / "a.json", {"mAP": 0.5})
    assert json.loads((tmp_path / "a.json").read_text()) == {"mAP": 0.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.write_json(tmp_path / "b.json", {"mAP": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_fingerprint_depends_on_every_part_and_on_their_borders():
    assert artifacts.fingerprint("a", "b") == artifacts.fingerprint("a", b"b")
    different = {
        artifacts.fingerprint(*p) for p in [("ab",), ("a", "b"), ("b", "a"), ("a", "b", "")]
    }
    assert len(different) == 4
    assert len(artifacts.fingerprint()) == 16


def test_file_fingerprint_follows_content(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"x" * 3_000_000)
    two.write_bytes(b"x" * 3_000_000)
    assert artifacts.file_fingerprint(one) == artifacts.file_fingerprint(two)
    two.write_bytes(b"x" * 2_999_999 + b"y")
    assert artifacts.file_fingerprint(one) != artifacts.file_fingerprint(two)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "folder"
    with artifacts.atomic_folder(path) as folder:
        folder.mkdir()
        (folder / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text() == "1"

    def fail():
        with artifacts.atomic_folder(path) as folder:
            folder.mkdir()
            (folder / "a").write_text("2")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert (path / "a").read_text() == "1"
    with artifacts.atomic_folder(path) as folder:
        folder.mkdir()
        (folder / "b").write_text("3")
    assert [one.name for one in path.iterdir()] == ["b"]
    assert [one.name for one in path.parent.iterdir()] == ["folder"]
