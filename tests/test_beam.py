"""Work in parts by Apache Beam's own local runner, and what is said when it breaks off."""

from __future__ import annotations

import functools

import pytest

from delf_tf import beam
from delf_tf.checks import InputError

pytestmark = pytest.mark.filterwarnings("ignore")


def _open_worker(folder, broken=-1):
    (folder / f"opened-{len(list(folder.iterdir()))}").touch()

    def do(part):
        if part == broken:
            raise ValueError("the part is broken")
        (folder / f"part-{part}").touch()

    return do


def _run(folder, flags=(), num_parts=5, **options):
    beam.run(
        functools.partial(_open_worker, folder, **options),
        range(num_parts),
        flags,
        lambda: 5 - len(list(folder.glob("part-*"))),
    )


def test_a_worker_is_made_ready_once_and_does_all_parts(tmp_path):
    _run(tmp_path)
    assert len(list(tmp_path.glob("part-*"))) == 5
    assert len(list(tmp_path.glob("opened-*"))) == 1


def test_faults_are_told(tmp_path):
    with pytest.raises(InputError, match=r"run to its end.*the part is broken.*again"):
        _run(tmp_path, broken=3)
    with pytest.raises(InputError, match="Unexpected pipeline runner: NoRunner"):
        _run(tmp_path, ["--runner=NoRunner"])
    for part in tmp_path.glob("part-[34]"):
        part.unlink()
    with pytest.raises(InputError, match=r"gone away.*num_left=2"):
        _run(tmp_path, num_parts=3)
    _run(tmp_path)


def test_dask_gets_a_task_a_part(tmp_path):
    full = "apache_beam.runners.dask.dask_runner.DaskRunner"
    for runner in ("DaskRunner", full):
        given = [f"--runner={runner}", "--dask_scheduler_file=f"]
        assert beam._complete(given) == ["--dask_partition_size=1", *given, f"--runner={full}"]
        assert beam._complete([*given, "--dask_npartitions=2"])[0] == given[0]
    assert beam._complete(["--runner=FlinkRunner"]) == ["--runner=FlinkRunner"]
