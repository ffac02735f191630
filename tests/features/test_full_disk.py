"""A disk that fills up while a store is written: a clear error, nothing half-written, a re-run."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from delf_tf.checks import InputError
from delf_tf.features.store import FeatureStore, create, writer
from tests.features.samples import DIMS, fill, make, names, sample, tree

LIMITED = """
import resource, sys
from tests.features.samples import *
resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
fill(sys.argv[1])
"""


def test_file_size_limit_in_a_child(tmp_path, repository):
    path = create(tmp_path / "s", names(9), fingerprint="f" * 16, block_size=3, **DIMS)
    command = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "InputError: There must be room on the disk" in done.stderr
    assert "run the same command again" in done.stderr
    assert sorted(tree(path)) == ["ids.json", "manifest.json"]
    fill(path)
    assert tree(path) == tree(make(tmp_path / "whole", names(9)))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_error_on_syncing(tmp_path, monkeypatch, code):
    ids = names(6)
    path = create(tmp_path / "s", ids, fingerprint="f" * 16, block_size=3, **DIMS)

    def fail(_):
        raise OSError(code, os.strerror(code))

    with writer(path) as shard_writer:
        (first, some), (second, others) = shard_writer.pending()
        shard_writer.write(first, some, [sample(one) for one in some], {})
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(InputError, match=r"room on the disk.*free some space"):
                shard_writer.write(second, others, [sample(one) for one in others], {})
        assert shard_writer.pending() == [(second, others)]
    fill(path)
    assert tree(path) == tree(make(tmp_path / "whole", ids))


def test_create_on_a_full_disk(tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="room on the disk"):
        create(tmp_path / "s", names(3), fingerprint="f", **DIMS)
    assert list((tmp_path / "s").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_really_full_disk(small_disk):
    ids = names(40)
    path = create(small_disk / "s", ids, fingerprint="f", block_size=4, **DIMS)
    features = {one: sample(one, num=300) for one in ids}
    with writer(path) as shard_writer, pytest.raises(InputError, match="room on the disk"):
        for block, some in shard_writer.pending():
            shard_writer.write(block, some, [features[one] for one in some], {})
    store = FeatureStore(path, allow_incomplete=True)
    assert store.verify() == []
    assert 0 < len(store.ids()) < len(ids)
    assert not list(path.glob(".*.tmp"))
    with pytest.raises(InputError, match="blocks are missing"):
        FeatureStore(path)
