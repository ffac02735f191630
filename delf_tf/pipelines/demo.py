"""The demo: photographs of generated landmarks, retrieved by a given model or one trained first."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from delf_tf import synthetic
from delf_tf.artifacts import StrPath
from delf_tf.pipelines import extraction
from delf_tf.pipelines.retrieve import Retrieved, retrieve
from delf_tf.pipelines.runtime import Runtime
from delf_tf.protos import experiment_pb2

_SEED = 1
_TRAIN_SIDE_PX, _SIDE_PX = 176, 320


def demo(
    message: experiment_pb2.Experiment,
    output_dir: Path,
    *,
    photos_dir: StrPath | None = None,
    num_landmarks: int = 60,
    num_train_views: int = 24,
    num_views: int = 4,
    num_distractors: int = 120,
    num_workers: int = 2,
) -> Iterator[Retrieved]:
    """Makes photographs and retrieves them; yields what was made of them, and of yours.

    Args:
      message: the experiment; without weights it is trained first.
      output_dir: receives everything; what it holds of the same is taken from there.
      photos_dir: a folder of photographs to retrieve with the same model, or None.
      num_landmarks: places.
      num_train_views: images of each to learn from.
      num_views: other images of each, to retrieve.
      num_distractors: images of no such place.
      num_workers: processes that render, threads that verify.

    Raises:
      InputError: no images in photos_dir, and see `retrieve`.
    """
    yours = extraction.read_collections(photos_dir) if photos_dir else None
    write_collection = functools.partial(
        synthetic.write_collection,
        num_landmarks=num_landmarks,
        seed=_SEED,
        num_workers=num_workers,
    )
    logging.info("Generating photographs.")
    labels = write_collection(
        output_dir / "photos",
        views_per_landmark=num_views,
        first_view=num_train_views,
        num_distractors=num_distractors,
        image_side=_SIDE_PX,
    )
    if not message.model.weights:
        train_labels = write_collection(
            output_dir / "train_photos",
            views_per_landmark=num_train_views,
            image_side=_TRAIN_SIDE_PX,
        )
        message.model.weights = str(_train(message, train_labels, output_dir, num_workers))
    runtime, sharding = Runtime(message), extraction.Sharding(num_threads=num_workers)
    logging.info("Retrieving views that were never trained on.")
    collections = extraction.read_collections(labels.parent / "images", labels=labels)
    yield retrieve(runtime.copy(), collections, output_dir, sharding=sharding)
    if yours is not None:
        logging.info("Retrieving your photographs.")
        yield retrieve(runtime.copy(), yours, output_dir / "your_photos", sharding=sharding)


def _train(
    message: experiment_pb2.Experiment, labels: Path, output_dir: Path, num_workers: int
) -> Path:
    """Writes training records of the labelled images and trains on them; returns the weights."""
    # TensorFlow takes seconds to load.
    from delf_tf.datasets.input import training_images  # noqa: PLC0415
    from delf_tf.datasets.records import builder as record_builder  # noqa: PLC0415
    from delf_tf.pipelines.training import train  # noqa: PLC0415

    logging.info("Writing training records.")
    images = training_images.from_folder(str(labels.parent / "images"), str(labels))
    records = record_builder.build_records(
        images, output_dir / "records", split="train", num_shards=4, num_processes=num_workers
    )
    logging.info("Training for at most %.0f s.", message.training.run.max_seconds)
    return train.train(message, str(Path(records).parent / "train*"), output_dir / "train")
