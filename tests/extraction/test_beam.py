from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
from PIL import Image

from delf_tf.checks import InputError
from delf_tf.datasets import folder
from delf_tf.extraction import engine
from delf_tf.extraction.extractor import Extractor
from tests.extraction.test_engine import _extract, _tree
from tests.extraction.toy import ToyModel, coordinates_image

NUM_SHARDS = 6


def make_extractor(pids=None):
    if pids is not None:
        (Path(pids) / str(os.getpid())).touch()
    return Extractor(ToyModel(), use_local_features=True, max_num_features=5)


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(7):
        Image.fromarray(coordinates_image(60 + number, 90)).save(root / f"{number}.png")
    return root


def _job(photos, store_dir, **changes):
    from delf_tf.extraction import beam

    return beam.ExtractionJob(
        **{
            "list_images": functools.partial(folder.list_images, photos),
            "make_extractor": make_extractor,
            "make_loader": engine.ImageLoader,
            "store_dir": store_dir,
            "fingerprint": "f",
            "num_shards": NUM_SHARDS,
            "options": {"block_size": 2},
            **changes,
        }
    )


def _expected(photos, path):
    for shard in range(NUM_SHARDS):
        _extract(photos, path, shard_index=shard, num_shards=NUM_SHARDS)
    return _tree(path)


@pytest.mark.filterwarnings("ignore")
def test_shards_by_threads_make_the_same_bytes(photos, tmp_path):
    from delf_tf.extraction import beam

    path = beam.run(_job(photos, tmp_path / "store"), ["--direct_num_workers=2"])
    assert _tree(path) == _expected(photos, tmp_path / "expected")
    # Once more: everything is there.
    beam.run(_job(photos, tmp_path / "store"))
    assert _tree(path) == _tree(tmp_path / "expected")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_shards_by_several_processes_make_the_same_bytes(photos, tmp_path, repository, monkeypatch):
    from delf_tf.extraction import beam

    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.chdir(repository)
    pids = tmp_path / "pids"
    pids.mkdir()
    job = _job(
        photos, tmp_path / "store", make_extractor=functools.partial(make_extractor, str(pids))
    )
    arguments = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    path = beam.run(job, arguments)
    assert _tree(path) == _expected(photos, tmp_path / "expected")
    assert str(os.getpid()) not in {one.name for one in pids.iterdir()}
    assert len(list(pids.iterdir())) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"num_shards": 0}, "num_shards"), ({"options": {"overwrite": True}}, "cannot overwrite")],
)
def test_bad_jobs(photos, tmp_path, changes, message):
    from delf_tf.extraction import beam

    with pytest.raises(InputError, match=message):
        beam.ExtractShards(_job(photos, tmp_path / "store", **changes))
