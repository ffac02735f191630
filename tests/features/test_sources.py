"""Which file an image's features were made from."""

from __future__ import annotations

import os
import time

import pytest

from delf_tf.checks import InputError
from delf_tf.features import sources
from delf_tf.features.sources import (
    Source,
    add_times,
    find_changed,
    read_source,
    read_times,
    replace_times,
)
from delf_tf.features.store import FeatureStore, create, writer
from tests.features.samples import DIMS, names, sample, tree

SOURCE = Source(5, "ab" * 16)


def _times(tmp_path, **contents):
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in contents}


def test_a_source_is_the_content(tmp_path):
    paths = _times(tmp_path, a=b"x" * 3_000_000, b=b"x" * 3_000_000, c=b"x" * 2_999_999 + b"y")
    a, b, c = (read_source(path) for path in paths.values())
    assert a == b != c
    assert a.num_bytes == c.num_bytes == 3_000_000
    assert sources.parse(str(a)) == a


def test_files_are_hashed_only_when_their_time_is_another(tmp_path, monkeypatch):
    paths = _times(tmp_path, a=b"one", b=b"two", c=b"three")
    recorded = {name: read_source(path) for name, path in paths.items()}
    hashed = []

    def reading(path):
        hashed.append(path.name)
        return read_source(path)

    monkeypatch.setattr(sources, "read_source", reading)
    times = {"a": paths["a"].stat().st_mtime_ns}
    changed, times = find_changed(recorded, paths, times)
    assert (changed, hashed) == ([], ["b", "c"])
    assert find_changed(recorded, paths, times) == ([], times)
    assert hashed == ["b", "c"]
    paths["a"].write_bytes(b"two")
    os.utime(paths["a"], ns=(0, 0))
    paths["b"].write_bytes(b"longer")
    changed, times = find_changed(recorded, paths, times)
    assert (changed, hashed) == (["a", "b"], ["b", "c", "a"])
    assert times.keys() == {"c"}
    # They are told again, and found again when the old files come back; gone ones are passed over.
    paths["c"].unlink()
    paths["b"].write_bytes(b"two")
    assert find_changed(recorded, paths, times)[0] == ["a"]


def test_times_are_kept_together(tmp_path):
    assert read_times(tmp_path) == {}
    add_times(tmp_path, "one", {"a": 1, "b": 1})
    add_times(tmp_path, "two", {"b": 1, "c": 3})
    add_times(tmp_path, "none", {})
    assert read_times(tmp_path) == {"a": 1, "b": 1, "c": 3}
    replace_times(tmp_path, {"a": 2})
    assert read_times(tmp_path) == {"a": 2}
    assert [path.name for path in tmp_path.iterdir()] == [".times.json"]
    add_times(tmp_path, "one", {"a": 3})
    assert read_times(tmp_path) == {"a": 3}
    # A file of just now may be written again without its time telling.
    add_times(tmp_path, "one", {"a": 4, "b": time.time_ns()})
    assert read_times(tmp_path) == {"a": 4}


@pytest.mark.parametrize("content", [b"", b"5", b"[" * 100_000, b'{"a": "never"}', b"\xff"])
def test_damaged_times_only_cost_time(tmp_path, content):
    paths = _times(tmp_path, a=b"one")
    (tmp_path / ".times.json").write_bytes(content)
    recorded = {"a": read_source(paths["a"])}
    assert find_changed(recorded, paths, read_times(tmp_path))[0] == []


def test_sources_lie_in_the_blocks(tmp_path):
    ids = names(4)
    for name in ("with", "without"):
        create(tmp_path / name, ids, fingerprint="f" * 16, block_size=2, **DIMS)
        with writer(tmp_path / name) as shard_writer:
            for block, some in shard_writer.pending():
                failures = {ids[3]: "no image"} if ids[3] in some else {}
                features = [None if one in failures else sample(one) for one in some]
                known = {some[0]: SOURCE} if name == "with" else None
                shard_writer.write(block, some, features, failures, known)
    stores = {name: FeatureStore(tmp_path / name) for name in ("with", "without")}
    assert dict(stores["with"].sources()) == {ids[0]: SOURCE, ids[2]: SOURCE}
    assert dict(stores["without"].sources()) == {}
    assert stores["without"].identity() == stores["without"].fingerprint == "f" * 16
    assert stores["with"].identity() != "f" * 16
    # An image that failed and is done later leaves what is known of the others.
    before = tree(tmp_path / "with")
    with writer(tmp_path / "with") as shard_writer:
        assert shard_writer.pending() == [(1, (ids[3],))]
        shard_writer.write(1, (ids[3],), [sample(ids[3])], {}, {ids[3]: Source(6, "cd" * 16)})
    assert FeatureStore(tmp_path / "with").sources_of(ids) | {ids[3]: None} == {
        ids[0]: SOURCE,
        ids[2]: SOURCE,
        ids[3]: None,
    }
    assert FeatureStore(tmp_path / "with").sources_of(ids[3:])[ids[3]].num_bytes == 6
    assert tree(tmp_path / "with") != before


def test_some_images_are_known_by_their_blocks_alone(tmp_path):
    ids = names(6)
    path = create(tmp_path / "s", ids, fingerprint="f" * 16, block_size=2, **DIMS)
    with writer(path) as shard_writer:
        for block, some in shard_writer.pending():
            known = dict.fromkeys(some, Source(block, "ab" * 16))
            shard_writer.write(block, some, [sample(one) for one in some], {}, known)
    whole = FeatureStore(path).identity()
    some = FeatureStore(path).identity(ids[:2])
    assert whole == FeatureStore(path).identity() == FeatureStore(path).identity(ids) != some
    blocks = sorted(path.glob("block-*.safetensors"))
    blocks[-1].write_bytes(b"damaged")
    assert FeatureStore(path).identity(ids[:2]) == some
    assert FeatureStore(path).sources_of(ids[3:4]) == {ids[3]: Source(1, "ab" * 16)}
    with pytest.raises(InputError):
        FeatureStore(path).identity()


@pytest.mark.parametrize("text", ["", "5", "five ab", "5 a b"])
def test_what_is_no_source(text):
    with pytest.raises(ValueError):
        sources.parse(text)


def test_a_block_that_names_other_files_is_refused(tmp_path, monkeypatch):
    path = create(tmp_path / "s", names(1), fingerprint="f" * 16, **DIMS)
    with writer(path) as shard_writer:
        monkeypatch.setattr(Source, "__str__", lambda _: "no source")
        shard_writer.write(0, names(1), [sample(names(1)[0])], {}, {names(1)[0]: SOURCE})
    with pytest.raises(InputError, match="must name files of its own images"):
        list(FeatureStore(path).sources())
