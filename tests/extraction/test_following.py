"""A store follows a folder: whatever came, went and changed, it equals one made anew."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings, stateful
from hypothesis import strategies as st
from PIL import Image

from delf_tf import artifacts
from delf_tf.checks import InputError
from delf_tf.datasets import folder
from delf_tf.extraction import engine
from delf_tf.features.generations import collection
from delf_tf.features.generations.compaction import compact
from delf_tf.features.store import FeatureStore
from tests.features.samples import assert_same, tree


class Colours:
    """An extractor whose features tell the image's mean and corners; it counts its images."""

    global_dim, local_dim, use_local_features = 3, 3, True

    def __init__(self):
        self.num_images = 0

    def __call__(self, image):
        self.num_images += 1
        pixels = image.astype(np.float32) + 1
        mean = pixels.mean(axis=(0, 1))
        corners = pixels[[0, -1], [0, -1]]
        return {
            "global_descriptor": mean / np.linalg.norm(mean),
            "locations": np.array([[0, 0], [11, 11]], np.float32),
            "descriptors": corners / np.linalg.norm(corners, axis=1, keepdims=True),
            "scores": corners[:, 0],
            "scales": np.ones(2, np.float32),
        }


def _write(path, content):
    """Writes one of a few images, each of its own bytes; a negative one is none."""
    if content < 0:
        path.write_text("no image")
    else:
        pixels = np.random.RandomState(content).randint(0, 255, (12, 12, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def _extract(photos, store_dir, extractor=None, **options):
    options = {"loader": engine.ImageLoader(), "fingerprint": "f", "block_size": 2, **options}
    refs = folder.list_images(photos)
    return engine.extract_to_store(refs, extractor or Colours(), store_dir, **options)


def _extract_shards(photos, store_dir, num_shards):
    for shard in range(num_shards):
        _extract(photos, store_dir, shard_index=shard, num_shards=num_shards)


def _content(path):
    store = FeatureStore(path)
    vectors = store.global_descriptors()
    assert vectors.ids == store.ids()
    blocks = [one for some, _ in store.global_blocks() for one in some]
    assert tuple(blocks) == store.ids()
    told = store.all_ids(), store.ids(), store.failed(), dict(store.sources()), store.identity()
    return told, vectors.vectors, [store.read(one) for one in store.ids()]


def _assert_equal(got, expected):
    assert got[0] == expected[0]
    np.testing.assert_array_equal(got[1], expected[1])
    for one, other in zip(got[2], expected[2], strict=True):
        assert_same(one, other)


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(6):
        _write(tmp_path / "photos" / f"{number}.png", number)
    return tmp_path / "photos"


def _told(caplog):
    lines = [record.getMessage() for record in caplog.records]
    return [line.rpartition(": ")[2] for line in lines if line.endswith(" kept.")]


def test_only_the_difference_is_computed_and_told(photos, tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    path = _extract(photos, tmp_path / "store")
    assert _told(caplog) == ["6 added, 0 kept."]
    _write(photos / "1.png", 11)
    (photos / "2.png").rename(photos / "9.png")
    (photos / "3.png").unlink()
    (photos / "4.png").touch()
    for number in (12, 13):
        _write(photos / f"{number}.png", number)
    counted = Colours()
    _extract(photos, path, counted)
    assert counted.num_images == 3
    assert _told(caplog)[-1] == "2 added, 1 changed, 1 moved, 1 removed, 3 kept."
    _assert_equal(_content(path), _content(_extract(photos, tmp_path / "anew")))
    before = tree(path)
    _extract(photos, path, counted)
    assert counted.num_images == 3
    assert _told(caplog)[-1] == "7 kept."
    assert {one: raw for one, raw in tree(path).items() if ".times" not in one} == {
        one: raw for one, raw in before.items() if ".times" not in one
    }
    # What was gone and comes back is still there.
    _write(photos / "3.png", 3)
    _extract(photos, path, counted)
    assert counted.num_images == 3
    assert _told(caplog)[-1] == "1 added, 7 kept."


def test_what_a_killed_run_left_is_told_as_kept(photos, tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    with _killed_at(7):
        _extract(photos, tmp_path / "store")
    num_left = FeatureStore(tmp_path / "store", allow_incomplete=True).num_missing_blocks
    assert 0 < num_left < 3
    _write(photos / "7.png", -1)
    _extract(photos, tmp_path / "store")
    assert _told(caplog)[-1] == f"{2 * num_left + 1} added, {6 - 2 * num_left} kept."
    _extract(photos, tmp_path / "store")
    assert _told(caplog)[-1] == "7 kept."


def test_other_shards_wait_for_each_other(photos, tmp_path):
    path = tmp_path / "store"
    _extract_shards(photos, path, 2)
    before = _content(path)
    for number in range(7, 10):
        _write(photos / f"{number}.png", number)
    _extract(photos, path, shard_index=1, num_shards=2)
    _assert_equal(_content(path), before)
    _extract(photos, path, shard_index=0, num_shards=2)
    _assert_equal(_content(path), _content(_extract(photos, tmp_path / "anew")))


def test_an_update_for_a_folder_that_has_changed_again_is_used(photos, tmp_path):
    path = _extract(photos, tmp_path / "store")
    for number in range(10, 14):
        _write(photos / f"{number}.png", number)
    _extract(photos, path, shard_index=0, num_shards=2)
    _write(photos / "14.png", 14)
    counted = Colours()
    _extract(photos, path, counted)
    assert counted.num_images == 3
    _assert_equal(_content(path), _content(_extract(photos, tmp_path / "anew")))


def test_a_damaged_block_is_computed_again(photos, tmp_path):
    path = _extract(photos, tmp_path / "store")
    (photos / "5.png").unlink()
    _extract(photos, path)
    victim = path / "block-00000-of-00001-000001.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    counted = Colours()
    _extract(photos, path, counted)
    assert counted.num_images == 2
    _assert_equal(_content(path), _content(_extract(photos, tmp_path / "anew")))


def test_compaction_leaves_what_is_there(photos, tmp_path):
    path = _extract(photos, tmp_path / "store")
    never_changed = tree(path)
    assert tree(compact(path)) == never_changed
    _write(photos / "1.png", -1)
    (photos / "0.png").unlink()
    _extract(photos, path)
    expected = _content(path)
    for _ in range(2):
        compact(path)
        _assert_equal(_content(path), expected)
        folders = [one.name for one in path.iterdir() if one.is_dir()]
        assert folders == ["generation-000002"]
        assert not list(path.glob("block-*"))
    _write(photos / "1.png", 1)
    _extract(photos, path)
    _assert_equal(_content(path), _content(_extract(photos, tmp_path / "anew")))


def test_a_killed_compaction_does_not_go_on_with_an_image_that_has_changed(photos, tmp_path):
    path = _extract(photos, tmp_path / "store")
    _write(photos / "7.png", 7)
    _extract(photos, path)
    with _killed_at(9):
        compact(path)
    assert [one.name for one in path.iterdir() if one.is_dir()].count("generation-000002")
    # Its features are there already, under another name: no generation is made for it.
    _write(photos / "0.png", 5)
    _extract(photos, path)
    expected = _content(path)
    compact(path)
    _assert_equal(_content(path), expected)


def test_features_of_another_model_are_refused(photos, tmp_path):
    path = _extract(photos, tmp_path / "store")
    (photos / "0.png").unlink()
    before = tree(path)
    with pytest.raises(InputError, match="same fingerprint"):
        _extract(photos, path, fingerprint="other")
    assert tree(path) == before


def test_a_folder_without_images_is_refused(photos, tmp_path):
    path = _extract(photos, tmp_path / "store")
    before = tree(path)
    for one in photos.iterdir():
        one.unlink()
    with pytest.raises(InputError, match="image"):
        _extract(photos, path)
    assert tree(path) == before


@pytest.mark.parametrize(
    "change",
    [
        {"generations": [".", "../elsewhere"]},
        {"generations": [".", "."]},
        {"rows": [[0, 99]]},
        {"rows": [[7, 0]]},
        {"rows": [[0, -1]]},
        {"rows": [[0]]},
        {"ids": ["a", "a"]},
        {"format_version": 2},
        {"more": 1},
    ],
)
def test_a_collection_that_is_none(photos, tmp_path, change):
    path = _extract(photos, tmp_path / "store")
    told = {"generations": ["."], "ids": ["0.png"], "rows": [[0, 0]]}
    told = {"format": "delf_tf collection", "format_version": 1, **told}
    artifacts.write_json(path / collection.NAME, told)
    assert FeatureStore(path).ids() == ("0.png",)
    artifacts.write_json(path / collection.NAME, {**told, **change})
    with pytest.raises(InputError):
        FeatureStore(path)


class Killed(BaseException):
    """Ends a run as a signal would, but for the locks."""


@contextlib.contextmanager
def _killed_at(step):
    """Ends the block at its `step`-th beginning or end of a file's writing."""
    whole = artifacts._open_temporary, artifacts._sync_folder
    left = [step]

    def counted(function):
        def run(path):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return function(path)

        return run

    artifacts._open_temporary, artifacts._sync_folder = map(counted, whole)
    try:
        yield
    except Killed:
        pass
    finally:
        artifacts._open_temporary, artifacts._sync_folder = whole


NAMES = st.sampled_from([f"{letter}.png" for letter in "abcdef"])
CONTENTS = st.integers(-1, 4)


class Following(stateful.RuleBasedStateMachine):
    """Random changes of a folder, runs and killed runs."""

    @stateful.initialize(num_shards=st.integers(1, 2))
    def start(self, num_shards):
        self.root = Path(tempfile.mkdtemp())
        self.num_shards, self.made = num_shards, False
        (self.root / "photos").mkdir()
        for number, name in enumerate("gabc"):
            _write(self.root / "photos" / f"{name}.png", number)

    def teardown(self):
        shutil.rmtree(self.root)

    @stateful.rule(name=NAMES, content=CONTENTS)
    def write(self, name, content):
        _write(self.root / "photos" / name, content)

    @stateful.rule(name=NAMES)
    def remove(self, name):
        (self.root / "photos" / name).unlink(missing_ok=True)

    @stateful.rule(name=NAMES, other=NAMES)
    def move(self, name, other):
        with contextlib.suppress(FileNotFoundError):
            (self.root / "photos" / name).rename(self.root / "photos" / other)

    @stateful.rule(name=NAMES)
    def touch(self, name):
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.root / "photos" / name)

    @stateful.rule()
    def run(self):
        _extract_shards(self.root / "photos", self.root / "store", self.num_shards)
        self.made = True
        _assert_equal(_content(self.root / "store"), self._anew())

    @stateful.rule(name=NAMES, content=CONTENTS)
    def write_and_run(self, name, content):
        self.write(name, content)
        self.run()

    @stateful.rule(step=st.integers(0, 14))
    def run_killed(self, step):
        before = _content(self.root / "store") if self.made else None
        with _killed_at(step):
            _extract_shards(self.root / "photos", self.root / "store", self.num_shards)
        if self.made:
            after = _content(self.root / "store")
            anew = self._anew()
            expected = anew if after[0][0] == anew[0][0] and after[0] != before[0] else before
            # Images that failed are tried again, one block after the other, before all else.
            assert after[0][0] == expected[0][0]
            if not before[0][2] and not anew[0][2]:
                _assert_equal(after, expected)

    @stateful.precondition(lambda self: self.made)
    @stateful.rule(step=st.integers(0, 14))
    def compact_killed(self, step):
        before = _content(self.root / "store")
        with _killed_at(step), contextlib.suppress(InputError):
            compact(self.root / "store")
        _assert_equal(_content(self.root / "store"), before)

    def _anew(self):
        shutil.rmtree(self.root / "anew", ignore_errors=True)
        return _content(_extract(self.root / "photos", self.root / "anew"))


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
