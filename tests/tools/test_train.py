"""The tools build_tfrecords and train through their command lines, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from delf_tf.tools import main

CONFIG = """
model { name: "tests.training.tiny_model:make" seed: 2 }
training {
  optimizer {
    name: "adamw"
    learning_rate: 0.01
    clip_norm: 5
    ema_decay: 0.9
  }
  schedule {
    name: "cosine"
  }
  input {
    batch_size: 8
    image_size: 16
    distortions { name: "brightness" strength: 0.2 }
  }
  losses {
    scale: 8
    reconstruction_weight: 1
  }
  run {
    num_steps: 60
    checkpoint_interval: 5
    log_interval: 5
  }
}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with images of three classes, their records and a config."""
    folder = tmp_path_factory.mktemp("train")
    random = np.random.RandomState(0)
    for label in range(3):
        (folder / "images" / f"class{label}").mkdir(parents=True)
        for number in range(4):
            pixels = np.clip(random.normal(60 + 60 * label, 20, (20, 24, 3)), 0, 255)
            path = folder / "images" / f"class{label}" / f"{number}.jpg"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    (folder / "tiny.textproto").write_text(CONFIG)
    flags = [f"--images_dir={folder}/images", f"--output_dir={folder}/r", "--num_shards=2"]
    assert main.main(["delf_tf", "build_tfrecords", *flags]) == 0
    assert (folder / "r" / "records-train.json").is_file()
    return folder


def _flags(work, name, *more):
    return (
        f"--config={work}/tiny.textproto",
        "--allow_import=tests",
        f"--train_file_pattern={work}/r/train*",
        f"--output_dir={work}/{name}",
        *more,
    )


@pytest.fixture(scope="module")
def undisturbed(work):
    assert main.main(["delf_tf", "train", *_flags(work, "whole")]) == 0
    return work / "whole"


def _interrupt(run, flags, number):
    """Sends a signal once the run has written another checkpoint; returns the exit status."""
    there = set((run / "checkpoints").glob("step-*.npz"))
    process = subprocess.Popen(
        [sys.executable, "-m", "delf_tf.tools.train", *flags],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not set((run / "checkpoints").glob("step-*.npz")) - there:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    return process.wait(timeout=120)


def test_a_run_that_is_killed_twice_ends_bit_equal(work, undisturbed):
    flags, run = _flags(work, "killed"), work / "killed"
    assert _interrupt(run, flags, signal.SIGTERM) == 0
    assert _interrupt(run, flags, signal.SIGKILL) == -signal.SIGKILL
    assert main.main(["delf_tf", "train", *flags]) == 0
    for name in ("weights.npz", "checkpoints/step-000000060.npz"):
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_weights_tell_what_they_were_trained_on(undisturbed):
    from delf_tf.models.zoo.checkpoint import read_options

    facts = read_options(undisturbed / "weights.npz")["provenance"]
    assert facts["training_set"] == {"kind": "folder"}
    assert facts["num_training_images"] == 12
    assert facts["initial_weights"] == {"file": "random"}
    assert 'name: "adamw"' in facts["config"]
    assert facts["averaged"] is True


@pytest.mark.parametrize(
    "flags, code, message",
    [
        (["--set=training.losses.num_classes=7"], 1, "num_classes=7, classes_in_records=3"),
        (["--set=training.optimiser=sgd"], 2, "Did you mean 'optimizer'"),
        (["--set=training.input.crop=center"], 1, "crop must be one of"),
        (["--strategy=mirorred"], 1, "strategy must be one of"),
        (["--train_file_pattern=/nowhere/train*"], 1, "must match TFRecord shards"),
        (["--config=tinny"], 2, "config must be a file"),
        (["--output_dir=/dev/null/run"], 1, "must not have a file in a folder's place"),
    ],
)
def test_what_is_refused_before_the_first_step(work, capsys, flags, code, message):
    assert main.main(["delf_tf", "train", *_flags(work, "refused"), *flags]) == code
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (work / "refused").exists()


@pytest.mark.parametrize(
    "flags, code, message",
    [
        (["--images_dir=/nowhere", "--output_dir=x"], 1, "must exist"),
        (["--dataset=gld", "--images_dir=a", "--output_dir=b"], 2, "<folder|gldv2|sfm120k>"),
        (["--dataset=gldv2", "--images_dir=a", "--output_dir=b"], 2, "--train_csv"),
        (["--images_dir=a"], 2, "--output_dir"),
    ],
)
def test_build_tfrecords_refuses(capsys, flags, code, message):
    assert main.main(["delf_tf", "build_tfrecords", *flags]) == code
    assert message in capsys.readouterr().err


def test_validation_split_by_the_tool(work):
    flags = [f"--images_dir={work}/images", f"--output_dir={work}/split"]
    flags += ["--num_shards=2", "--validation_fraction=0.25"]
    assert main.main(["delf_tf", "build_tfrecords", *flags]) == 0
    counts = {
        split: json.loads((work / "split" / f"records-{split}.json").read_text())["num_records"]
        for split in ("train", "validation")
    }
    assert counts == {"train": 9, "validation": 3}
