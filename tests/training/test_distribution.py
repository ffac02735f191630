"""Several processes train as one does; every network's whole step compiles by XLA."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.models.create import create_model
from delf_tf.training.objective import Objective
from delf_tf.training.optimizers import Optimizer

CONFIG = """
model { name: "tests.training.tiny_model:make" seed: 2 }
training {
  optimizer {
    name: "sgd"
    learning_rate: 0.02
    clip_norm: 5
  }
  schedule {
    name: "cosine"
  }
  input {
    batch_size: 8
    image_size: 16
  }
  losses {
    scale: 8
    reconstruction_weight: 1
  }
  run {
    num_steps: 20
    checkpoint_interval: 100
    log_interval: 1
  }
}
"""


def _start(folder, records_dir, name, strategy, tf_config=None):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if tf_config is not None:
        environment["TF_CONFIG"] = json.dumps(tf_config)
    (folder / "tiny.textproto").write_text(CONFIG)
    command = [
        *(sys.executable, "-m", "delf_tf.tools.main", "train"),
        f"--config={folder}/tiny.textproto",
        "--allow_import=tests",
        f"--train_file_pattern={records_dir}",
        f"--output_dir={folder}/{name}",
        f"--strategy={strategy}",
    ]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def _finish(processes):
    for process in processes:
        output, _ = process.communicate(timeout=500)
        assert process.returncode == 0, output[-3000:]


def _losses(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def _free_ports(num):
    sockets = [socket.socket() for _ in range(num)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.slow
def test_two_processes_equal_one(records_dir, tmp_path):
    _finish([_start(tmp_path, records_dir, "one", "default")])
    workers = [f"localhost:{port}" for port in _free_ports(2)]
    configs = [
        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        for index in range(2)
    ]
    _finish([_start(tmp_path, records_dir, "two", "multi_worker", one) for one in configs])
    one, two = _losses(tmp_path / "one"), _losses(tmp_path / "two")
    assert len(one) == 20
    np.testing.assert_allclose(two, one, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["delf_resnet14", "delg_resnet14", "dolg_resnet14", "superfeatures_resnet14"]
)
def test_every_networks_step_compiles_whole(name):
    model = create_model(name, width_multiplier=0.125, seed=0)
    objective = Objective(model, 5, weights={"contrastive": 0.1})
    optimizer = Optimizer("adamw", objective.trainable_variables(), clip_norm=1.0, ema_decay=0.9)

    def step(images, labels):
        with tf.GradientTape() as tape:
            losses, _ = objective(images, labels)
            total = tf.add_n([tf.reduce_mean(loss) for loss in losses.values()])
        gradients = tape.gradient(total, optimizer.trained)
        optimizer.apply(gradients, tf.constant(1e-3), tf.constant(1.0))
        return total

    images = tf.constant(np.random.RandomState(0).uniform(0, 255, (4, 64, 64, 3)), tf.float32)
    labels = tf.constant([0, 1, 1, 4], tf.int64)
    compiled = tf.function(step, jit_compile=True)
    first, second = (float(compiled(images, labels)) for _ in range(2))
    assert np.isfinite([first, second]).all()
    assert second != first
    assert compiled.experimental_get_tracing_count() == 1
