"""A folder that is served while it changes; the network is none: mean colours."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import threading

import numpy as np
import pytest
from google.protobuf import text_format

from delf_tf.checks import InputError
from delf_tf.datasets.images import ImageError
from delf_tf.extraction.array_extractor import ArrayExtractor
from delf_tf.features.generations import updates
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines.photos import served
from delf_tf.pipelines.photos.model import Model
from delf_tf.pipelines.runtime import Runtime
from delf_tf.protos import experiment_pb2
from delf_tf.serving.answers import ConflictError, UnknownItemError
from tests.serving import collection

CONFIG = """
model { name: "compact_efficientnet_lite2" seed: 1 }
extraction { use_local_features: true backend: "openvino" precision: "float32" }
rerank { num_candidates: 4 }
"""


class MeanColours(ArrayExtractor):
    """An extractor without a network."""

    use_global_features = use_local_features = True
    global_dim = local_dim = 3

    def __init__(self):
        pass

    def extract_batches(self, images, *, batch_size):
        found = [collection.extract(image) for image in images]
        return [
            {
                "global_descriptor": one.global_descriptor,
                **{name: getattr(one.local, name) for name in ("locations", "descriptors")},
                **{name: getattr(one.local, name) for name in ("scores", "scales")},
            }
            for one in found
        ]


@pytest.fixture
def runtime(monkeypatch):
    monkeypatch.setattr(Runtime, "extractor", lambda self, **_: MeanColours())
    return Runtime(text_format.Parse(CONFIG, experiment_pb2.Experiment()))


@pytest.fixture
def folder(runtime, tmp_path):
    """A live folder of paintings 0 and 1."""
    (tmp_path / "photos").mkdir()
    for seed in (0, 1):
        (tmp_path / "photos" / f"{seed}.png").write_bytes(_png(seed))
    return _opened(runtime, tmp_path)


def _opened(runtime, root):
    return served.live_folder(Model(runtime), root / "photos", root / "found", num_threads=1)


def _png(seed):
    return collection.png(collection.painting(seed))


def _add(folder, name, seed):
    folder.add(name, _png(seed), collection.painting(seed))


def _served(folder):
    return sorted(ref.id for ref in folder.service.refs)


def _files(folder):
    return sorted(
        path.relative_to(folder.images_dir).as_posix()
        for path in folder.images_dir.rglob("*")
        if path.is_file()
    )


def _stored(tmp_path):
    return sorted(FeatureStore(tmp_path / "found" / "database").ids())


def test_what_is_added_is_found_and_what_is_removed_is_not(folder, tmp_path):
    _add(folder, "new/2.png", 2)
    expected = ["0.png", "1.png", "new/2.png"]
    assert _served(folder) == _files(folder) == _stored(tmp_path) == expected
    answer = folder.service.query(collection.painting(2))
    assert answer.two_stage[0].id == "new/2.png"
    assert answer.two_stage[0].num_inliers == 12
    folder.remove("0.png")
    assert _served(folder) == _files(folder) == _stored(tmp_path) == ["1.png", "new/2.png"]
    assert len(folder.service.query(collection.painting(0)).single_stage) == 2
    # Numbers of before name the same images, or none.
    assert folder.service.ref(answer.two_stage[0].number).id == "new/2.png"
    assert {number for number, _ in folder.service.page(0, 9)} == {1, 2}


def test_the_result_is_that_of_a_fresh_start(folder, runtime, tmp_path):
    _add(folder, "2.png", 2)
    folder.remove("1.png")
    _add(folder, "1.png", 3)
    fresh = served.live_folder(
        Model(runtime), tmp_path / "photos", tmp_path / "fresh", num_threads=1
    )
    assert fresh.service.refs == folder.service.refs
    for seed in range(4):
        answers = [one.service.query(collection.painting(seed)) for one in (folder, fresh)]
        ranked = [[dataclasses.astuple(hit)[1:] for hit in one.two_stage] for one in answers]
        assert ranked[0] == ranked[1]


def test_what_cannot_be(folder, tmp_path):
    with pytest.raises(ConflictError, match="delete it first"):
        _add(folder, "0.png", 2)
    with pytest.raises(UnknownItemError, match="this id"):
        folder.remove("../found/retrieval.json")
    tiny = np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ImageError, match="pixels on each side"):
        folder.add("tiny.png", collection.png(tiny), tiny)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="lie in the folder"):
        _add(folder, "link/2.png", 2)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    (tmp_path / "photos" / "link").unlink()
    folder.remove("0.png")
    with pytest.raises(ConflictError, match="the last"):
        folder.remove("1.png")
    assert _served(folder) == _files(folder) == ["1.png"]


class BrokenError(Exception):
    """What goes wrong in the middle."""


@pytest.mark.parametrize("where", ["extract", "index", "write"])
def test_an_update_that_fails_leaves_all_as_it_was(folder, runtime, tmp_path, monkeypatch, where):
    def broken(*_, **__):
        raise BrokenError

    with monkeypatch.context() as patch:
        if where == "extract":
            patch.setattr("delf_tf.extraction.engine._Filler.fill", broken)
        elif where == "index":
            patch.setattr(served, "collection", broken)
        else:
            patch.setattr("delf_tf.artifacts.write_bytes", broken)
        with pytest.raises(BrokenError):
            _add(folder, "2.png", 2)
        if where != "write":
            with pytest.raises(BrokenError):
                folder.remove("0.png")
    assert _served(folder) == _files(folder) == ["0.png", "1.png"]
    assert folder.service.query(collection.painting(0)).two_stage[0].num_inliers == 12
    # What was begun is in nobody's way.
    _add(folder, "3.png", 3)
    assert _served(folder) == _files(folder) == _stored(tmp_path) == ["0.png", "1.png", "3.png"]
    assert _served(_opened(runtime, tmp_path)) == ["0.png", "1.png", "3.png"]


def test_a_process_that_dies_in_mid_update_leaves_one_state_or_the_other(folder, runtime, tmp_path):
    for step in itertools.count():
        copied = tmp_path / f"{step}"
        for part in ("photos", "found"):
            shutil.copytree(tmp_path / part, copied / part)
        opened = _opened(runtime, copied)
        calls = itertools.count()

        def dying(*args, real=None, calls=calls, step=step, **kwargs):
            if next(calls) >= step:
                raise SystemExit
            return real(*args, **kwargs)

        # Every file that appears is renamed to its name: the process dies before one of them.
        with pytest.MonkeyPatch.context() as patch:
            for name in ("replace", "rename"):
                real = getattr(type(copied), name)
                patch.setattr(type(copied), name, lambda *a, real=real, **k: dying(*a, real=real))
            # A dead process tidies nothing up.
            patch.setattr(type(copied), "unlink", lambda *_, **__: None)
            try:
                _add(opened, "2.png", 2)
                done = True
            except SystemExit:
                done = False
        stored = sorted(FeatureStore(copied / "found" / "database").ids())
        assert stored in (["0.png", "1.png"], ["0.png", "1.png", "2.png"])
        there = (copied / "photos" / "2.png").exists()
        again = _opened(runtime, copied)
        assert ("2.png" in _served(again)) == there
        assert again.service.query(collection.painting(1)).two_stage[0].num_inliers == 12
        if done:
            break
    assert step > 3


def test_two_updates_at_once_come_one_after_the_other(folder):
    started = threading.Barrier(4)

    def add(seed):
        started.wait()
        _add(folder, f"{seed}.png", seed)

    threads = [threading.Thread(target=add, args=(seed,)) for seed in range(2, 6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert _served(folder) == _files(folder) == [f"{seed}.png" for seed in range(6)]


def test_another_process_in_the_way_is_told_and_nothing_is_lost(
    folder, runtime, tmp_path, monkeypatch
):
    real = updates.plan

    def late(*args):
        # Another process follows the folder when this one has compared it with the store.
        update = real(*args)
        monkeypatch.setattr(updates, "plan", real)
        (folder.images_dir / "9.png").write_bytes(_png(9))
        _opened(runtime, tmp_path)
        return update

    monkeypatch.setattr(updates, "plan", late)
    with pytest.raises(InputError, match="one update at a time"):
        _add(folder, "2.png", 2)
    assert _files(folder) == ["0.png", "1.png", "9.png"]
    assert _served(folder) == ["0.png", "1.png"]
    _add(folder, "2.png", 2)
    assert _served(folder) == _stored(tmp_path) == ["0.png", "1.png", "2.png", "9.png"]


def _wait_for(condition):
    for _ in range(1200):
        if condition():
            return
        threading.Event().wait(0.05)
    pytest.fail("It never happened.")


def test_the_folder_is_watched(folder, caplog):
    with folder.watched(0.02):
        (folder.images_dir / "0.png").unlink()
        (folder.images_dir / "2.png").write_bytes(_png(2))
        _wait_for(lambda: _served(folder) == ["1.png", "2.png"])
        (folder.images_dir / "2.png").write_bytes(_png(3))
        _wait_for(
            lambda: folder.service.query(collection.painting(3)).two_stage[0].num_inliers == 12
        )
        # A folder that shrinks to nothing is told once, and served as it was.
        kept = folder.images_dir.rename(folder.images_dir.with_name("away"))
        _wait_for(lambda: "served as it was before" in caplog.text)
        threading.Event().wait(0.2)
        assert caplog.text.count("served as it was before") == 1
        assert _served(folder) == ["1.png", "2.png"]
        kept.rename(folder.images_dir)
        _add(folder, "4.png", 4)
        _wait_for(lambda: _served(folder) == ["1.png", "2.png", "4.png"])


def test_a_picture_that_is_still_copied_is_waited_for(folder):
    before = folder._listing()
    (folder.images_dir / "2.png").write_bytes(_png(2)[:100])
    before, _ = folder._look(before)
    (folder.images_dir / "2.png").write_bytes(_png(2))
    before, _ = folder._look(before)
    assert _served(folder) == ["0.png", "1.png"]
    folder._look(before)
    assert _served(folder) == ["0.png", "1.png", "2.png"]
    assert FeatureStore(folder.images_dir.with_name("found") / "database").failed() == {}
