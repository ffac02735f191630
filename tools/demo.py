"""demo: makes photographs of generated landmarks, trains on some, retrieves others.

delf_tf demo --output_dir=demo_output

Offline. A compact model learns for at most three minutes from views of generated landmarks; then
other views of them, which it never saw, query each other among distractors, by global descriptors
alone and with geometric verification. OUT receives report.html, metrics.json, the photographs, and
train/weights.npz; the same command again goes on where it stopped.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from delf_tf.datasets import folder, synthetic
from delf_tf.tools import command_line, experiment, extract, retrieve, train

FLAGS = flags.FlagValues()
experiment.define_flags(FLAGS, default_config="compact_demo")
experiment.define_extraction_flags(FLAGS)
flags.DEFINE_string("output_dir", "demo_output", "folder for everything made", flag_values=FLAGS)
flags.DEFINE_integer("num_landmarks", 60, "places", flag_values=FLAGS)
flags.DEFINE_integer("num_train_views", 24, "images of each to learn from", flag_values=FLAGS)
flags.DEFINE_integer("num_views", 4, "other images of each, to retrieve", flag_values=FLAGS)
flags.DEFINE_integer("num_distractors", 120, "images of no such place", flag_values=FLAGS)
flags.DEFINE_integer(
    "num_workers", 2, "processes that render, threads that verify", flag_values=FLAGS
)

_SEED = 1
_TRAIN_SIDE_PX, _SIDE_PX = 176, 320


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Runs the tool."""
    command_line.no_positional(arguments)
    from delf_tf.datasets import record_builder, training_images  # noqa: PLC0415

    message = experiment.from_flags(flag_values)
    output_dir = Path(flag_values.output_dir)
    num_workers = flag_values.num_workers

    logging.info("1/4 Generating photographs.")
    write_collection = functools.partial(
        synthetic.write_collection,
        num_landmarks=flag_values.num_landmarks,
        seed=_SEED,
        num_workers=num_workers,
    )
    train_labels = write_collection(
        output_dir / "train_photos",
        views_per_landmark=flag_values.num_train_views,
        image_side=_TRAIN_SIDE_PX,
    )
    labels = write_collection(
        output_dir / "photos",
        views_per_landmark=flag_values.num_views,
        first_view=flag_values.num_train_views,
        num_distractors=flag_values.num_distractors,
        image_side=_SIDE_PX,
    )
    if not message.model.weights:
        logging.info("2/4 Writing training records.")
        images = training_images.from_folder(str(train_labels.parent / "images"), str(train_labels))
        records = record_builder.build_records(
            images, output_dir / "records", split="train", num_shards=4, num_processes=num_workers
        )
        logging.info("3/4 Training for at most %.0f s.", message.training.max_seconds)
        weights = train.train(message, str(Path(records).parent / "train*"), output_dir / "train")
        message.model.weights = str(weights)
    logging.info("4/4 Retrieving views that were never trained on.")
    collections = retrieve.Collections(
        folder.list_images(labels.parent / "images"), None, folder.read_labels(labels)
    )
    sharding = extract.Sharding(num_threads=num_workers)
    return retrieve.retrieve(message, collections, output_dir, sharding=sharding)


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
