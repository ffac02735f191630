"""demo: makes photographs of generated landmarks and retrieves them; yours too, if you name them.

delf_tf demo --output_dir=demo_output [--photos_dir=DIR]
delf_tf demo --config=compact_demo --output_dir=demo_train_output

Offline. Views of generated landmarks query each other among distractors, by global descriptors
alone and with geometric verification, with the compact model of the package. --photos_dir does the
same with photographs of yours. With a config that has no weights, such as compact_demo, a model
first learns for at most three minutes from other views of the landmarks. OUT receives report.html,
metrics.json, the photographs, train/weights.npz if something was trained, and of --photos_dir
your_photos/report.html; the same command again goes on where it stopped.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from delf_tf import synthetic
from delf_tf.datasets import folder
from delf_tf.protos import experiment_pb2
from delf_tf.tools import command_line, experiment, extract, pipeline, retrieve, train

FLAGS = flags.FlagValues()
experiment.define_flags(FLAGS, default_config="compact")
experiment.define_extraction_flags(FLAGS)
flags.DEFINE_string("output_dir", "demo_output", "folder for everything made", flag_values=FLAGS)
flags.DEFINE_string("photos_dir", None, "a folder of photographs of yours", flag_values=FLAGS)
command_line.define_count(FLAGS, "num_landmarks", 60, "places")
command_line.define_count(FLAGS, "num_train_views", 24, "images of each to learn from")
command_line.define_count(FLAGS, "num_views", 4, "other images of each, to retrieve")
command_line.define_count(FLAGS, "num_distractors", 120, "images of no such place", least=0)
command_line.define_count(FLAGS, "num_workers", 2, "processes that render, threads that verify")

_SEED = 1
_TRAIN_SIDE_PX, _SIDE_PX = 176, 320


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Runs the tool."""
    command_line.no_positional(arguments)
    message = experiment.from_flags(flag_values)
    output_dir = Path(flag_values.output_dir)
    yours = folder.list_images(flag_values.photos_dir) if flag_values.photos_dir else None
    write_collection = functools.partial(
        synthetic.write_collection,
        num_landmarks=flag_values.num_landmarks,
        seed=_SEED,
        num_workers=flag_values.num_workers,
    )
    logging.info("Generating photographs.")
    labels = write_collection(
        output_dir / "photos",
        views_per_landmark=flag_values.num_views,
        first_view=flag_values.num_train_views,
        num_distractors=flag_values.num_distractors,
        image_side=_SIDE_PX,
    )
    if not message.model.weights:
        train_labels = write_collection(
            output_dir / "train_photos",
            views_per_landmark=flag_values.num_train_views,
            image_side=_TRAIN_SIDE_PX,
        )
        message.model.weights = str(
            _train(message, train_labels, output_dir, flag_values.num_workers)
        )
    logging.info("Retrieving views that were never trained on.")
    sharding = extract.Sharding(num_threads=flag_values.num_workers)
    collections = pipeline.Collections(
        folder.list_images(labels.parent / "images"),
        None,
        folder.read_labels(labels),
        labels.parent / "images",
    )
    code = retrieve.retrieve(message, collections, output_dir, sharding=sharding)
    if yours is not None:
        logging.info("Retrieving your photographs.")
        collections = pipeline.Collections(yours, None, None, Path(flag_values.photos_dir))
        yours_dir = output_dir / "your_photos"
        code = max(code, retrieve.retrieve(message, collections, yours_dir, sharding=sharding))
    return code


def _train(
    message: experiment_pb2.Experiment, labels: Path, output_dir: Path, num_workers: int
) -> Path:
    """Writes training records of the labelled images and trains on them; returns the weights."""
    from delf_tf.datasets.input import training_images  # noqa: PLC0415
    from delf_tf.datasets.records import builder as record_builder  # noqa: PLC0415

    logging.info("Writing training records.")
    images = training_images.from_folder(str(labels.parent / "images"), str(labels))
    records = record_builder.build_records(
        images, output_dir / "records", split="train", num_shards=4, num_processes=num_workers
    )
    logging.info("Training for at most %.0f s.", message.training.max_seconds)
    return train.train(message, str(Path(records).parent / "train*"), output_dir / "train")


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
