"""What the tests of the smoke configs share: generated photographs, runs, and their scores."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

from delf_tf import config, synthetic
from delf_tf.datasets.input import training_images
from delf_tf.datasets.records import builder as record_builder
from delf_tf.pipelines.training import train
from delf_tf.tools import main

CONFIGS = Path(__file__).parent / "configs"
# Of each system the configs that are trained one after the other, each from the last one's weights.
SYSTEMS = {
    "dolg": ("smoke_dolg",),
    "superfeatures": ("smoke_superfeatures",),
    "delf": ("smoke_delf_descriptor", "smoke_delf_attention"),
    "delg": ("smoke_delg",),
}


def config_path(name):
    """Returns the path of a smoke config, or the name of one that is shipped."""
    path = CONFIGS / f"{name}.textproto"
    return str(path) if path.is_file() else name


class Run(NamedTuple):
    """A trained config: its folder, its weights and the lines of its metrics."""

    folder: Path
    weights: Path
    metrics: list[dict[str, float]]


def write_photographs(folder, num_landmarks, num_views, *, first_view=0, image_side=144, seed=1):
    """Writes views of generated landmarks; returns the path of their labels."""
    return synthetic.write_collection(
        folder,
        num_landmarks=num_landmarks,
        views_per_landmark=num_views,
        first_view=first_view,
        seed=seed,
        image_side=image_side,
    )


def write_records(labels):
    """Writes training records of the labelled photographs; returns the pattern of their names."""
    images = training_images.from_folder(str(labels.parent / "images"), str(labels))
    records = record_builder.build_records(images, labels.parent / "records", num_shards=4)
    return str(records.parent / "train*")


def train_system(system, pattern, folder, *overrides, weights=None):
    """Trains the configs of a system; returns a Run of each."""
    runs: list[Run] = []
    for name in SYSTEMS[system]:
        message = config.load_experiment(config_path(name), overrides)
        if weights is not None:
            message.model.weights = str(weights)
        weights = train.train(message, pattern, folder / name)
        runs.append(Run(folder / name, weights, _read_metrics(folder / name)))
    return runs


def retrieval_map(system, labels, folder, weights=None):
    """Returns the mAP of each stage of retrieval; without weights, of random ones."""
    arguments = [
        f"--config={config_path(SYSTEMS[system][-1])}",
        f"--database_dir={labels.parent / 'images'}",
        f"--labels={labels}",
        f"--output_dir={folder}",
        "--num_report_queries=1",
    ]
    if weights is not None:
        arguments.append(f"--weights={weights}")
    assert main.main(["delf_tf", "retrieve", *arguments]) == 0
    scores = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return {stage: scores[stage]["mAP"] for stage in scores if stage.endswith("_stage")}


def _read_metrics(folder):
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
