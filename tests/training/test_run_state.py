"""Checkpoints and metrics of a run that the disk, or a stranger, has changed."""

from __future__ import annotations

import csv
import errno
import json
import os
import random

import numpy as np
import pytest
import tensorflow as tf

from delf_tf import npz
from delf_tf.checks import InputError
from delf_tf.training import run_state
from delf_tf.training.metrics_log import MetricsLog

STATE = run_state.RunState(
    5,
    {"model/a": np.arange(40, dtype=np.float32).reshape(8, 5), "optimizer/b": np.ones(3)},
    "f" * 16,
    {"seconds": 1.0, "best": None},
)


def _whole(found):
    same = (
        np.array_equal(found.arrays[name], STATE.arrays[name])
        for name in found.arrays
        if name in STATE.arrays
    )
    return all(same) and set(found.arrays) <= set(STATE.arrays)


def test_a_flipped_bit_is_told_or_harms_nothing(tmp_path):
    path = run_state.save_state(tmp_path, STATE)
    content = path.read_bytes()
    refused = 0
    for place in random.Random(0).sample(range(8 * len(content)), 2000):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            # An archive's end may have lost a name; the trainer asks for every one.
            assert _whole(run_state.load_state(path))
        except InputError as error:
            assert "training continues from the previous" in str(error)
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_cut_checkpoint_is_told(tmp_path, length):
    path = run_state.save_state(tmp_path, STATE)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(
        InputError, match=r"must be a whole \.npz file.*continues from the previous checkpoint"
    ):
        run_state.load_state(path)


@pytest.mark.parametrize(
    "content",
    [
        b"loss,accuracy\n1,2\n",
        b"step,loss\nfive,1\n",
        b"step,loss\n-3,1\n",
        b"step,loss\n5,1,2,3\n",
        b"step,loss\n5,\xff\n",
        b"step,loss\n5," + b"9" * 200_000 + b"\n",
    ],
)
def test_damaged_metrics_are_told(tmp_path, content):
    # As reading a table of GLDv2 leaves it, for the whole process.
    csv.field_size_limit(1 << 26)
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"metrics of a run.*metrics\.csv.*Move the file away"):
        MetricsLog(tmp_path, 9)
    assert (tmp_path / "metrics.csv").read_bytes() == content


def test_metrics_go_on_behind_the_checkpoint(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss\n5,1\n10,2\n")
    log = MetricsLog(tmp_path, 5)
    log.write(6, {"loss": 3.0, "more": 4.0})
    log.close()
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,more\n5,1,\n6,3,4\n"


def test_a_place_for_events_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        MetricsLog(tmp_path / "file", 0)

    def full(*_):
        raise tf.errors.ResourceExhaustedError(None, None, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tf.summary, "create_file_writer", full)
    with pytest.raises(InputError, match=r"tensorboard must be writable.*No space left"):
        MetricsLog(tmp_path / "run", 0)


def test_a_step_that_is_no_number_is_told(tmp_path):
    header = {"format": run_state.FORMAT, "step": float("inf"), "fingerprint": "f", "facts": {}}
    path = npz.write_with_text(tmp_path / "s.npz", {}, "header.json", json.dumps(header))
    with pytest.raises(InputError, match="must be of this format"):
        run_state.load_state(path)
