"""SfM-120k from its database to weights: build_tfrecords, then train on mined tuples."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from PIL import Image

from delf_tf.datasets.sfm120k import image_path
from delf_tf.models.zoo.checkpoint import read_options
from delf_tf.tools import main

CONFIG = """
model { name: "tests.training.tiny_model:make" seed: 2 }
training {
  optimizer {
    name: "adamw"
    learning_rate: 0.01
  }
  input {
    batch_size: 8
    image_size: 16
    tuples { num_queries: 6 pool_size: 12 num_negatives: 2 margin: 0.7 }
  }
  losses {
    descriptor_weight: 0
    attention_weight: 0
    reconstruction_weight: 0
  }
  run {
    num_steps: 5
    log_interval: 1
  }
}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Four clusters of three images, one of which is lost, their records and a config."""
    folder = tmp_path_factory.mktemp("tuples")
    random = np.random.RandomState(0)
    ids = [f"{row:02d}aabbcc{row:02d}{row:02d}{row:02d}" for row in range(12)]
    for row, one in enumerate(ids[:-1]):
        pixels = np.clip(random.normal(40 + 50 * (row // 3), 20, (20, 24, 3)), 0, 255)
        path = image_path(folder / "ims", one)
        path.parent.mkdir(parents=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path, "JPEG")
    part = {
        "cids": ids,
        "cluster": [row // 3 for row in range(12)],
        "qidxs": [0, 0, 3, 3, 6, 6, 9, 9],
        "pidxs": [1, 2, 4, 5, 7, 8, 10, 11],
    }
    (folder / "sfm.pkl").write_bytes(pickle.dumps({"train": part, "val": part}, 2))
    (folder / "tiny.textproto").write_text(CONFIG)
    flags = ["--dataset=sfm120k", f"--images_dir={folder}/ims", f"--database={folder}/sfm.pkl"]
    flags += [f"--output_dir={folder}/r", "--num_shards=2", "--max_failed_fraction=0.1"]
    assert main.main(["delf_tf", "build_tfrecords", *flags]) == 0
    return folder


def _train(work, name, *more):
    flags = (
        f"--config={work}/tiny.textproto",
        "--allow_import=tests",
        f"--train_file_pattern={work}/r/train*",
        f"--output_dir={work}/{name}",
        *more,
    )
    return main.main(["delf_tf", "train", *flags])


def test_database_to_weights(work):
    assert _train(work, "run", f"--set=training.input.tuples.database={work}/sfm.pkl") == 0
    facts = read_options(work / "run" / "weights.npz")["provenance"]
    assert facts["training_set"] == {"kind": "sfm120k", "split": "train"}
    assert facts["steps"] == 5
    header = (work / "run" / "metrics.csv").read_text().splitlines()[0]
    assert "tuple_loss" in header
    assert "descriptor_loss" not in header
    with np.load(work / "run" / "tuples" / "epoch-000001.npz") as kept:
        rows = kept["rows"]
    assert rows.shape == (6, 4)
    # Row 11 has no record, nor therefore the pair (9, 11).
    assert rows.max() == 10
    clusters = rows // 3
    assert (clusters[:, 0] == clusters[:, 1]).all()
    assert (clusters[:, :1] != clusters[:, 2:]).all()


def test_the_recipe_of_super_features_in_small(work):
    small = {
        "model.name": "superfeatures_resnet14",
        "model.width_multiplier": 0.125,
        "model.num_superfeatures": 4,
        "model.superfeature_dim": 8,
        "model.local_dim": 0,
        "training.input.batch_size": 8,
        "training.input.image_size": 64,
        "training.run.num_steps": 2,
        "training.run.precision": "float32",
        "training.input.tuples.num_queries": 4,
        "training.input.tuples.num_negatives": 2,
        "training.input.tuples.pool_size": 12,
        "training.input.tuples.database": f"{work}/sfm.pkl",
    }
    flags = [f"--set={name}={value}" for name, value in small.items()]
    flags += [f"--train_file_pattern={work}/r/train*", f"--output_dir={work}/superfeatures"]
    assert main.main(["delf_tf", "train", "--config=superfeatures_resnet50", *flags]) == 0
    header = (work / "superfeatures" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"superfeature_loss", "decorrelation_loss"} <= set(header)
    assert "tuple_loss" not in header


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), r"must have a database.*training.input.tuples.database"),
        (("--set=training.input.views=2",), r"views: 1.*views=2"),
        (("--set=training.input.batch_size=6",), r"multiple of 2 \+ num_negatives"),
        (
            ("--set=training.input.tuples.pool_size=2", "--set=training.input.tuples.split=test"),
            "train, val",
        ),
        (("--set=training.input.tuples.margin=-1",), r"margin must be positive.*margin=-1"),
    ],
)
def test_what_is_refused(work, capsys, flags, message):
    database = (f"--set=training.input.tuples.database={work}/sfm.pkl",) if flags else ()
    assert _train(work, "refused", *database, *flags) == 1
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])
    assert not (work / "refused").exists()
