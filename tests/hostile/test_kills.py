"""Tools killed at any step on the disk end, run again, with the bytes of a run that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.tools import painted, stores

RETRIEVE = """
model { name: "gem_mobilenet_v2" width_multiplier: 0.35 seed: 1 }
extraction {
  max_image_size: 96 use_local_features: true max_num_features: 20 block_size: 3
  local_pca { dim: 8 }
}
rerank { num_candidates: 2 }
"""
TRAIN = """
model { name: "tests.training.tiny_model:make" seed: 2 }
training {
  optimizer { name: "adamw" learning_rate: 0.01 }
  input { batch_size: 4 image_size: 16 }
  losses { scale: 8 reconstruction_weight: 1 }
  run { num_steps: 6 checkpoint_interval: 2 log_interval: 2 }
}
"""
# They tell seconds, or when the images were last written.
_OF_THE_CLOCK = ("report.html", "metrics.json", "metrics.csv", "tensorboard/", ".times")
_IMPORTS = (
    "delf_tf.extraction.engine",
    "delf_tf.pipelines.retrieve",
    "delf_tf.training.trainer",
    "matplotlib.pyplot",
)


class Forge:
    """Runs tools in forks of one process, which has loaded TensorFlow."""

    def __init__(self, repository, log_path):
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-m", "tests.hostile.killed", *_IMPORTS]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=repository, env=environment, stderr=log, **pipes
            )
        assert self.process.stdout.readline() == "ready\n"

    def run(self, argv, folder, kill_at=0):
        """Returns the exit status and the number of steps."""
        request = {"argv": argv, "folder": str(folder), "kill_at": kill_at}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def forge(repository, tmp_path_factory):
    made = Forge(repository, tmp_path_factory.mktemp("forge") / "log")
    yield made
    made.process.kill()
    made.process.communicate()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, forge):
    """Images, records, stores and configs."""
    root = tmp_path_factory.mktemp("killed")
    (root / "photos").mkdir()
    painted.write_places(root / "photos", root / "labels.csv")
    for label in range(2):
        (root / "classes" / str(label)).mkdir(parents=True)
        for number in range(4):
            pixels = np.random.RandomState(10 * label + number).randint(0, 256, (20, 24, 3))
            path = root / "classes" / str(label) / f"{number}.jpg"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    (root / "retrieve.textproto").write_text(RETRIEVE)
    (root / "extract.textproto").write_text(RETRIEVE.replace("local_pca { dim: 8 }", ""))
    (root / "train.textproto").write_text(TRAIN)
    records = root / "records"
    assert forge.run(_records(root, records), records)[0] == 0
    stores.make_store(root / "store", stores.places(8, 2))
    return root


def _retrieve(root, output):
    images = [f"--database_dir={root / 'photos'}", f"--labels={root / 'labels.csv'}"]
    config = [f"--config={root / 'retrieve.textproto'}", "--num_report_queries=0"]
    return ["retrieve", *config, *images, f"--output_dir={output}"]


def _extract(root, output):
    config = [f"--config={root / 'extract.textproto'}", "--local_codec=int8"]
    return ["extract", *config, f"--images_dir={root / 'photos'}", f"--output_dir={output}"]


def _build_asmk(root, output):
    options = ["--type=asmk", "--num_words=16"]
    return ["build_index", f"--database_store={root / 'store'}", f"--output={output}/x", *options]


def _build_exact(root, output):
    return ["build_index", f"--database_store={root / 'store'}", f"--output={output}/x"]


def _train(root, output):
    config = f"--config={root / 'train.textproto'}"
    records = f"--train_file_pattern={root / 'records' / 'train*'}"
    options = ["--allow_import=tests", "--peak_tflops=1"]
    return ["train", config, *options, records, f"--output_dir={output}"]


def _records(root, output):
    images = f"--images_dir={root / 'classes'}"
    return ["build_tfrecords", images, f"--output_dir={output}", "--num_shards=3"]


TOOLS = {
    "retrieve": _retrieve,
    "extract": _extract,
    "build_asmk": _build_asmk,
    "build_exact": _build_exact,
    "train": _train,
    "build_tfrecords": _records,
}


def _tree(folder):
    """Every file's bytes by its path, but for those that differ from run to run."""
    files = {str(one.relative_to(folder)): one for one in folder.rglob("*") if one.is_file()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if not any(part in name for part in _OF_THE_CLOCK)
    }


def _kill_and_compare(forge, command, root, scratch, *, rounds, seed):
    whole = scratch / "whole"
    status, num_steps = forge.run(command(root, whole), whole)
    assert status == 0
    assert num_steps > 2
    expected = _tree(whole)
    assert expected
    chance = random.Random(seed)
    for number in range(rounds):
        folder = scratch / f"killed{number}"
        # Killed twice: the second time while it goes on.
        for most in (num_steps, num_steps // 2):
            status, _ = forge.run(command(root, folder), folder, chance.randint(1, most))
            assert status in (0, -signal.SIGKILL)
        assert forge.run(command(root, folder), folder)[0] == 0
        assert _tree(folder) == expected, f"round {number} of seed {seed}"


@pytest.mark.parametrize("tool", TOOLS)
def test_killed_runs_end_with_the_same_bytes(forge, inputs, tmp_path, tool):
    _kill_and_compare(forge, TOOLS[tool], inputs, tmp_path, rounds=1, seed=tool)


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_many_killed_runs_end_with_the_same_bytes(forge, inputs, tmp_path, tool):
    _kill_and_compare(forge, TOOLS[tool], inputs, tmp_path, rounds=40, seed=f"many {tool}")
