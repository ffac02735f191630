"""demo: makes photographs of generated landmarks, trains on some, retrieves the others.

delf_tf demo --output_dir=demo_output

Offline. A compact model learns in three minutes from views of landmarks that are never searched
for; then views of other landmarks query each other among distractors, by global descriptors alone
and with geometric verification. OUT receives report.html, metrics.json, the photographs, and
train/weights.npz; the same command again goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags, logging

from delf_tf.datasets import folder, synthetic
from delf_tf.tools import command_line, experiment, extract, retrieve, train

FLAGS = flags.FlagValues()
experiment.define_flags(FLAGS, default_config="compact_demo")
flags.DEFINE_string("output_dir", "demo_output", "folder for everything made", flag_values=FLAGS)
flags.DEFINE_integer("num_train_landmarks", 300, "places to learn from", flag_values=FLAGS)
flags.DEFINE_integer("num_landmarks", 40, "other places, to be retrieved", flag_values=FLAGS)
flags.DEFINE_integer("num_distractors", 120, "images of no such place", flag_values=FLAGS)
flags.DEFINE_integer(
    "num_workers", 2, "processes that render, threads that verify", flag_values=FLAGS
)

_TRAIN_VIEWS, _TRAIN_SIDE_PX, _TRAIN_SEED = 8, 176, 1
_VIEWS, _SIDE_PX, _SEED = 5, 320, 2


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Runs the tool."""
    command_line.no_positional(arguments)
    from delf_tf.datasets import record_builder, training_images  # noqa: PLC0415

    message = experiment.from_flags(flag_values)
    output_dir = Path(flag_values.output_dir)
    num_workers = flag_values.num_workers

    logging.info("1/4 Generating photographs.")
    train_labels = synthetic.write_collection(
        output_dir / "train_photos",
        num_landmarks=flag_values.num_train_landmarks,
        views_per_landmark=_TRAIN_VIEWS,
        seed=_TRAIN_SEED,
        image_side=_TRAIN_SIDE_PX,
        num_workers=num_workers,
    )
    labels = synthetic.write_collection(
        output_dir / "photos",
        num_landmarks=flag_values.num_landmarks,
        views_per_landmark=_VIEWS,
        num_distractors=flag_values.num_distractors,
        seed=_SEED,
        image_side=_SIDE_PX,
        num_workers=num_workers,
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
    logging.info("4/4 Retrieving landmarks that were never trained on.")
    collections = retrieve.Collections(
        folder.list_images(labels.parent / "images"), None, folder.read_labels(labels)
    )
    sharding = extract.Sharding(num_threads=num_workers)
    return retrieve.retrieve(message, collections, output_dir, sharding=sharding)


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
