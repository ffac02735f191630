"""Writing a store: resuming, refusing, locking."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.features.store import FeatureStore, ImageFeatures, create, writer
from tests.features.samples import DIMS, assert_same, fill, make, names, sample, tree

CHILD = """
import sys
from tests.features.samples import *
{patch}
print("ready", flush=True)
fill(sys.argv[1])
"""


def _child(repository, path, patch="", **keywords):
    script = CHILD.format(patch=textwrap.dedent(patch))
    command = [sys.executable, "-c", script, str(path)]
    return subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, **keywords)


def _create(path, ids, **arguments):
    return create(path, ids, **{"fingerprint": "f" * 16, "block_size": 3, **DIMS, **arguments})


def test_killed_at_random_moments_ends_byte_identical(tmp_path, repository):
    ids = names(120)
    whole = make(tmp_path / "whole", ids, block_size=1)
    path = _create(tmp_path / "killed", ids, block_size=1)
    rng = random.Random(0)
    kills = 0
    while True:
        with _child(repository, path) as child:
            child.stdout.readline()
            try:
                child.wait(timeout=rng.uniform(0, 0.08) if kills < 6 else 60)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        store = FeatureStore(path, allow_incomplete=True)
        assert store.verify() == []
        for one in store.ids():
            assert_same(store.read(one), sample(one))
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    assert tree(path) == tree(whole)


def _dying(call, moment):
    return f"""
        import os, pathlib, signal
        count = 0
        def dying(original):
            def call(*args):
                global count
                count += 1
                if count == {moment}:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args)
            return call
        os.fsync = dying(os.fsync) if {call == "fsync"} else os.fsync
        if {call == "rename"}:
            pathlib.Path.replace = dying(pathlib.Path.replace)
    """


@pytest.mark.parametrize("moment", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_killed_at_each_step_of_writing_a_block(tmp_path, repository, call, moment):
    ids = names(15)
    path = _create(tmp_path / "killed", ids)
    with _child(repository, path, _dying(call, moment)) as child:
        child.wait(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert FeatureStore(path, allow_incomplete=True).verify() == []
    fill(path)
    assert tree(path) == tree(make(tmp_path / "whole", ids))


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_killed_while_the_store_is_created(tmp_path, repository, moment):
    path = tmp_path / "killed"
    creating = f"create(sys.argv[1], names(5), fingerprint='f' * 16, block_size=3, **{DIMS})"
    with _child(repository, path, textwrap.dedent(_dying("fsync", moment)) + creating) as child:
        child.wait(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert any(one.name.startswith(".") for one in path.iterdir())
    assert tree(make(path, names(5))) == tree(make(tmp_path / "whole", names(5)))


def test_any_order_of_blocks_and_shards_gives_the_same_bytes(tmp_path):
    ids = names(20)
    whole = make(tmp_path / "whole", ids, num_shards=3)
    path = _create(tmp_path / "other", ids, num_shards=3)
    for shard in (2, 0, 1):
        fill(path, shard=shard, num_shards=3, order=-1)
    assert tree(path) == tree(whole)
    assert {one.name for one in path.iterdir()} == {"manifest.json", "ids.json"} | {
        f"block-{shard:05d}-of-00003-{number:06d}.safetensors"
        for shard, num in enumerate((2, 3, 3))
        for number in range(num)
    }


def test_a_second_run_has_nothing_to_do(tmp_path):
    path = make(tmp_path / "s", names(7))
    before = {p: p.stat().st_mtime_ns for p in path.iterdir()}
    make(path, names(7))
    assert {p: p.stat().st_mtime_ns for p in path.iterdir()} == before


@pytest.mark.parametrize(
    "damage", ["truncate", "empty", "flip", "header", "grow", "random", "swap"]
)
def test_damaged_block_is_found_and_made_again(tmp_path, damage):
    path = make(tmp_path / "s", names(9))
    whole = tree(path)
    victim = path / "block-00000-of-00001-000001.safetensors"
    content = victim.read_bytes()
    changed = {
        "truncate": content[:-1],
        "empty": b"",
        "flip": content[:-5] + bytes([content[-5] ^ 4]) + content[-4:],
        "header": content.replace(b'"failures', b'"failurez'),
        "grow": content + b"\0",
        "random": np.random.default_rng(0).bytes(len(content)),
        "swap": (path / "block-00000-of-00001-000002.safetensors").read_bytes(),
    }[damage]
    victim.write_bytes(changed)
    assert FeatureStore(path).verify() == [victim.name]
    with writer(path) as shard_writer:
        assert shard_writer.pending() == [(1, tuple(names(9)[3:6]))]
    fill(path)
    assert tree(path) == whole


def test_every_flipped_bit_of_a_block_is_noticed(tmp_path):
    path = make(tmp_path / "s", names(2), block_size=2)
    victim = path / "block-00000-of-00001-000000.safetensors"
    content = victim.read_bytes()
    store = FeatureStore(path)
    assert store.verify() == []
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << (position % 8)
        victim.write_bytes(flipped)
        assert store.verify() == [victim.name], position


def test_reading_damage_names_image_and_remedy(tmp_path):
    ids = names(3)
    path = make(tmp_path / "s", ids)
    victim = path / "block-00000-of-00001-000000.safetensors"
    content = bytearray(victim.read_bytes())
    # The last array of the file is `scores`: the last image that has features is damaged.
    content[-1] ^= 1
    victim.write_bytes(content)
    store = FeatureStore(path)
    last = [one for one in ids if len(sample(one).local)][-1]
    with pytest.raises(InputError, match=r"checksum differs.*repairs"):
        store.read_local(last)
    for one in ids:
        if one != last:
            assert_same(store.read(one), sample(one))
    assert len(store.global_descriptors()) == 3


def test_failed_images_are_tried_again_and_complete_the_store(tmp_path):
    ids = names(10)
    path = make(tmp_path / "s", ids, bad=(ids[1], ids[5], ids[9]))
    with writer(path) as shard_writer:
        assert shard_writer.pending() == [(0, (ids[1],)), (1, (ids[5],)), (3, (ids[9],))]
        assert shard_writer.pending(retry_failures=False) == []
    fill(path, bad=(ids[5],))
    store = FeatureStore(path)
    assert store.failed() == {ids[5]: "no image"}
    assert_same(store.read(ids[1]), sample(ids[1]))
    assert_same(store.read(ids[0]), sample(ids[0]))
    fill(path)
    assert tree(path) == tree(make(tmp_path / "whole", ids))


def test_failing_again_changes_nothing(tmp_path):
    ids = names(6)
    path = make(tmp_path / "s", ids, bad=ids[2:4])
    before = tree(path)
    fill(path, bad=ids[2:4])
    assert tree(path) == before


def test_reasons_become_one_line(tmp_path):
    path = _create(tmp_path / "s", ["a"])
    with writer(path) as shard_writer:
        shard_writer.write(0, ["a"], [None], {"a": "first\n  second\t"})
    assert FeatureStore(path).failed() == {"a": "first second"}


def test_second_writer_is_refused(tmp_path, repository):
    path = _create(tmp_path / "s", names(6), num_shards=2)
    with writer(path, 0, 2):
        with pytest.raises(InputError, match=r"one writer at a time.*00000-of-00002"):
            writer(path, 0, 2)
        with writer(path, 1, 2) as other:
            assert other.num_images == 3
    with writer(path, 0, 2) as again:
        again.close()
    script = f"from delf_tf.features.store import writer; writer({str(path)!r}, 0, 2)"
    with writer(path, 0, 2):
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=repository, capture_output=True, check=False
        )
    assert done.returncode == 1
    assert b"one writer at a time" in done.stderr


def test_lock_of_a_dead_writer_does_not_block(tmp_path, repository):
    path = _create(tmp_path / "s", names(6))
    patch = """
        import os, signal
        shard_writer = writer(sys.argv[1])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with _child(repository, path, patch) as child:
        child.wait(timeout=60)
    assert (path / ".block-00000-of-00001.lock").exists()
    (path / ".block-00000-of-00001-000000.safetensors.1234abcd.tmp").write_bytes(b"half")
    fill(path)
    assert tree(path) == tree(make(tmp_path / "whole", names(6)))


SHARD = """
import sys
from delf_tf.features.store import create
from tests.features.samples import DIMS, fill, names
create(sys.argv[1], names(12), fingerprint="f" * 16, block_size=3, num_shards=4, **DIMS)
fill(sys.argv[1], shard=int(sys.argv[2]), num_shards=4)
"""


def test_shards_create_and_write_at_once(tmp_path, repository):
    commands = [[sys.executable, "-c", SHARD, str(tmp_path / "s"), str(s)] for s in range(4)]
    processes = [subprocess.Popen(command, cwd=repository) for command in commands]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert tree(tmp_path / "s") == tree(make(tmp_path / "whole", names(12), num_shards=4))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fingerprint": "other"}, "same fingerprint"),
        ({"ids": names(6)}, "same num_images, list of images"),
        ({"ids": names(5)[::-1]}, "same list of images"),
        ({"num_shards": 2}, "same num_shards"),
        ({"block_size": 4}, "same block_size"),
        ({"global_dim": 9}, "same global_dim"),
        ({"local_dim": None}, "same local_dim, local_codec"),
    ],
)
def test_another_store_is_refused_and_kept(tmp_path, change, words):
    path = make(tmp_path / "s", names(5))
    before = tree(path)
    with pytest.raises(InputError, match=f"must have been made with the {words}.*overwrite"):
        _create(path, **{"ids": names(5), **change})
    assert tree(path) == before
    _create(path, **{"ids": names(5), **change}, overwrite=True)
    assert sorted(tree(path)) == ["ids.json", "manifest.json"]
    with pytest.raises(InputError, match="missing"):
        FeatureStore(path)


def test_overwriting_leaves_other_files_and_live_writers_alone(tmp_path):
    path = make(tmp_path / "s", names(5))
    (path / "failed_images.csv").write_text("kept")
    before = tree(path)
    with writer(path), pytest.raises(InputError, match="one writer at a time"):
        _create(path, names(5), overwrite=True)
    assert tree(path) == before
    _create(path, names(5), overwrite=True)
    assert (path / "failed_images.csv").read_text() == "kept"
    fill(path)
    assert tree(path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ids": ["a", "b", "a"]}, r"unique.*'a'"),
        ({"ids": ["a", ""]}, "not empty"),
        ({"ids": [1]}, "strings"),
        ({"num_shards": 0}, "num_shards"),
        ({"block_size": 0}, "block_size"),
        ({"block_size": 2.0}, "block_size"),
        ({"global_dim": None, "local_dim": None}, "global descriptors, local features or both"),
        ({"global_dim": 0}, "global_dim"),
        ({"fingerprint": ""}, "fingerprint"),
        ({"local_codec": "flaot32"}, "Did you mean 'float32'"),
    ],
)
def test_create_checks_its_arguments(tmp_path, arguments, words):
    with pytest.raises(InputError, match=words):
        _create(tmp_path / "s", **{"ids": ["a"], **arguments})
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("shard", "num_shards"), [(2, 2), (-1, 2), (0, 1), (0, 3)])
def test_writer_checks_the_shard(tmp_path, shard, num_shards):
    _create(tmp_path / "s", names(4), num_shards=2)
    with pytest.raises(InputError, match="shard"):
        writer(tmp_path / "s", shard, num_shards)


def test_writer_needs_a_store(tmp_path):
    with pytest.raises(InputError, match=r"manifest.json"):
        writer(tmp_path)


def test_write_checks_what_it_is_given(tmp_path):
    path = _create(tmp_path / "s", ["a", "b", "c", "d"])
    good = [sample(one) for one in "abc"]
    narrow = ImageFeatures([1.0], good[0].local)
    with writer(path) as shard_writer:
        for block, ids, features, failures, words in [
            (7, ["a"], good[:1], {}, "block must be one"),
            (0, ["a", "b"], good[:2], {}, "whole the first time"),
            (0, ["a", "b", "d"], good, {}, "ids must be the block's"),
            (0, ["a", "b", "c"], good[:2], {}, "ids must be the block's"),
            (0, ["a", "b", "b"], good, {}, "ids must be the block's"),
            (0, ["a", "b", "c"], [*good[:2], None], {}, "failures must name"),
            (0, ["a", "b", "c"], good, {"a": "?"}, "failures must name"),
            (0, ["a", "b", "c"], [*good[:2], narrow], {}, "global_dim, 8"),
            (0, ["a", "b", "c"], [*good[:2], ImageFeatures()], {}, "global_dim, 8"),
        ]:
            with pytest.raises(InputError, match=words):
                shard_writer.write(block, ids, features, failures)
    assert sorted(tree(path)) == ["ids.json", "manifest.json"]


def test_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file in a folder"):
        _create(tmp_path / "file", names(1))
