"""Extraction and records by Apache Beam: on one machine's processes, and on a cluster of Dask's."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from delf_tf.checks import InputError
from delf_tf.datasets import folder
from delf_tf.datasets.input import training_images
from delf_tf.datasets.records import builder
from delf_tf.extraction import engine
from tests.extraction.test_engine import _tree
from tests.extraction.test_following import Colours
from tests.extraction.toy import coordinates_image

pytestmark = pytest.mark.filterwarnings("ignore")
NUM_SHARDS = 6
PROCESSES = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]


class Waiting(Colours):
    """Says which process it runs in; its images wait while the file `hold` is there."""

    def __init__(self, marks):
        super().__init__()
        self.marks = Path(marks)

    def __call__(self, image):
        (self.marks / str(os.getpid())).touch()
        while (self.marks / "hold").exists():
            time.sleep(0.05)
        return super().__call__(image)


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for number in range(7):
        (root / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(coordinates_image(60 + number, 90))
        image.save(root / f"class{number % 2}" / f"{number}.png")
    return root


@pytest.fixture
def marks(tmp_path, repository, monkeypatch):
    """A folder for `Waiting`; other processes can import the tests."""
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.chdir(repository)
    (tmp_path / "marks").mkdir()
    yield tmp_path / "marks"
    (tmp_path / "marks" / "hold").unlink(missing_ok=True)


def _job(photos, store_dir, **changes):
    from delf_tf.extraction import beam

    return beam.ExtractionJob(
        **{
            "list_images": functools.partial(folder.list_images, photos),
            "make_extractor": Colours,
            "make_loader": engine.ImageLoader,
            "store_dir": store_dir,
            "fingerprint": "f",
            "num_shards": NUM_SHARDS,
            "options": {"block_size": 2},
            **changes,
        }
    )


def _run(job, flags=()):
    from delf_tf.extraction import beam

    return beam.run(job, flags)


def _expected(photos, path):
    extract = _job(photos, path).open_worker()
    for shard in range(NUM_SHARDS):
        extract(shard)
    return _tree(path)


def _when(marks, num_processes, kill):
    """Calls `kill` with the processes that have begun, as soon as there are so many."""
    (marks / "hold").touch()

    def wait():
        while len(list(marks.iterdir())) <= num_processes:
            time.sleep(0.05)
        kill([int(one.name) for one in marks.iterdir() if one.name != "hold"])
        (marks / "hold").unlink()

    threading.Thread(target=wait, daemon=True).start()


def test_shards_by_threads_make_the_same_bytes(photos, tmp_path):
    path = _run(_job(photos, tmp_path / "store"), ["--direct_num_workers=2"])
    assert _tree(path) == _expected(photos, tmp_path / "expected")
    # Once more: everything is there.
    _run(_job(photos, tmp_path / "store"))
    assert _tree(path) == _tree(tmp_path / "expected")


def test_records_by_a_pipeline_are_the_same_bytes(photos, tmp_path):
    images = training_images.from_folder(photos)
    builder.build_records(images, tmp_path / "one", num_shards=3)
    for _ in range(2):
        builder.build_records(images, tmp_path / "beam", num_shards=3, beam_flags=["--no_flag"])
        assert _tree(tmp_path / "beam") == _tree(tmp_path / "one")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"num_shards": 0}, "num_shards"), ({"options": {"overwrite": True}}, "cannot overwrite")],
)
def test_bad_jobs(photos, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        _run(_job(photos, tmp_path / "store", **changes))


@pytest.mark.slow
def test_shards_by_several_processes_make_the_same_bytes(photos, tmp_path, marks):
    job = _job(photos, tmp_path / "store", make_extractor=functools.partial(Waiting, marks))
    # A worker that is killed ends the run, which else would wait for ever; nothing is lost.
    _when(marks, 2, lambda pids: os.kill(pids[0], signal.SIGKILL))
    with pytest.raises(InputError, match="live to the end"):
        _run(job, PROCESSES)
    pids = {one.name for one in marks.iterdir()}
    assert str(os.getpid()) not in pids
    assert len(pids) == 2
    assert _tree(_run(job, PROCESSES)) == _expected(photos, tmp_path / "expected")


@pytest.fixture
def cluster(tmp_path, marks):
    """A scheduler and two workers, processes by name; and the flags that lead there."""
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    common = ["--no-dashboard", "--host=127.0.0.1", f"--scheduler-file={file}"]
    worker = ["dask_worker", "--nthreads=1", "--no-nanny", *common]
    commands = {"scheduler": ["dask_scheduler", "--port=0", *common], "a": worker, "b": worker}
    # Else parts would wait for ever for workers to come.
    environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT": "5s"}
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{command[0]}", *command[1:]],
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        for name, command in commands.items()
    }
    yield processes, ["--runner=DaskRunner", f"--dask_scheduler_file={file}"]
    for process in processes.values():
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_cluster_outlives_a_worker_that_is_killed(photos, tmp_path, marks, cluster):
    processes, flags = cluster
    _when(marks, 2, lambda _: processes["a"].kill())
    job = _job(photos, tmp_path / "store", make_extractor=functools.partial(Waiting, marks))
    assert _tree(_run(job, flags)) == _expected(photos, tmp_path / "expected")
    assert {one.name for one in marks.iterdir()} == {str(processes[name].pid) for name in "ab"}

    images = training_images.from_folder(photos)
    builder.build_records(images, tmp_path / "one", num_shards=3)
    builder.build_records(images, tmp_path / "many", num_shards=3, beam_flags=flags)
    assert _tree(tmp_path / "many") == _tree(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("lost", [["scheduler"], ["a", "b"]])
def test_a_cluster_that_goes_away_is_told_and_loses_nothing(photos, tmp_path, marks, cluster, lost):
    processes, flags = cluster
    _when(marks, 2, lambda _: [processes[name].kill() for name in lost])
    job = _job(photos, tmp_path / "store", make_extractor=functools.partial(Waiting, marks))
    with pytest.raises(InputError, match="Run the same command again"):
        _run(job, flags)
    assert _tree(_run(job)) == _expected(photos, tmp_path / "expected")
