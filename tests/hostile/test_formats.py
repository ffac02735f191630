"""Mutants of every kind of file end in a result or in an error of ours, in bounded time and space.

Each format's mutants are read in a process of its own, with 1 GiB of memory and five seconds of the
processor for each; see attack.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.hostile.formats import FORMATS

NUM_MUTANTS, NUM_MUTANTS_SLOW = 200, 10_000


def _attack(folder, num, seed):
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.attack", folder, str(num), str(seed)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["format"] for one in ended] == list(FORMATS)
    faults = [f"{one['format']}: {one['fault']}" for one in ended if "fault" in one]
    assert not faults, "\n\n".join(faults)
    for one in ended:
        assert one["read"] + one["refused"] + one["stopped"] == num, one
        assert one["stopped"] <= num / 50, one
    return {one["format"]: one for one in ended}


def test_mutants_of_every_format(tmp_path):
    ended = _attack(tmp_path, NUM_MUTANTS, 0)
    # A reader that took everything, or nothing, would not be tried; records tells faults as data.
    assert all(one["refused"] for name, one in ended.items() if name != "records")
    assert sum(one["read"] for one in ended.values()) > 500


@pytest.mark.slow
def test_many_mutants_of_every_format(tmp_path):
    _attack(tmp_path, NUM_MUTANTS_SLOW, 1)
