"""Batches of training images from TFRecords: endless, shuffled, and resumable at any step.

The order of records and every random number follow from the seed and the position in the stream, so
the state of the pipeline is one number, the step: a run that is killed and resumed sees the very
batches of an undisturbed one.

An epoch permutes the shards, interleaves a few of them, and shuffles within windows of
`shuffle_window` records. To resume, the records of the epoch begun are passed over undecoded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from delf_tf.checks import require, require_choice
from delf_tf.datasets.input import augmentation
from delf_tf.datasets.records import files as record_files
from delf_tf.datasets.records import schema

_ORDER, _WINDOWS, _PIXELS, _SIDES = range(4)
_SHARDS_AT_ONCE = 16


@dataclasses.dataclass(frozen=True)
class RecordStream:
    """An endless, shuffled stream of serialised examples that can start anywhere.

    Attributes:
      paths: shards.
      counts: records of each, from `schema.open_records`.
      seed: of the order.
      shuffle_window: records shuffled together; this many undecoded images are held in memory.
    """

    paths: tuple[str, ...]
    counts: tuple[int, ...]
    seed: int = 0
    shuffle_window: int = 4096

    def __post_init__(self) -> None:
        require(
            len(self.paths) == len(self.counts) and self.num_records > 0,
            "A stream must have shards with at least one record in all.",
            paths=self.paths,
            counts=self.counts,
        )
        window = self.shuffle_window
        require(window > 0, "shuffle_window must be positive.", shuffle_window=window)

    @property
    def num_records(self) -> int:
        """Records of an epoch."""
        return sum(self.counts)

    def dataset(self, position: int = 0) -> tf.data.Dataset:
        """Returns (int64 position, serialised example) from the record at `position` on."""
        require(position >= 0, "position must not be negative.", position=position)
        epoch, passed = divmod(position, self.num_records)
        stream = self._epoch(tf.constant(epoch, tf.int64), passed)
        later = tf.data.Dataset.range(epoch + 1, tf.int64.max).flat_map(self._epoch)
        return stream.concatenate(later).enumerate(position)

    def _epoch(self, epoch: tf.Tensor, passed: int = 0) -> tf.data.Dataset:
        seed = augmentation.fold_in(
            augmentation.fold_in(tf.constant([self.seed, _ORDER]), epoch), _WINDOWS
        )
        paths = tf.random.experimental.stateless_shuffle(tf.constant(self.paths), seed)
        records = tf.data.Dataset.from_tensor_slices(paths).interleave(
            lambda path: tf.data.TFRecordDataset(path, buffer_size=1 << 20),
            cycle_length=min(_SHARDS_AT_ONCE, len(self.paths)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        windows_passed, rest = divmod(passed, self.shuffle_window)
        windows = records.skip(windows_passed * self.shuffle_window).window(self.shuffle_window)
        shuffled = windows.enumerate(windows_passed).flat_map(
            lambda number, window: _shuffled(
                window, self.shuffle_window, augmentation.fold_in(seed, number)
            )
        )
        return shuffled.skip(rest)


@dataclasses.dataclass(frozen=True)
class InputPipeline:
    """Decoded and augmented batches; see the module.

    Attributes:
      stream: the records.
      batch_size: global, over all workers and replicas.
      image_size: side of the pictures, pixels.
      crop: a key of `augmentation.CROPS`.
      crop_options: further arguments of the crop.
      distortions: see `augmentation.distort`.
      rescale_sides: if given, each step's batch has one of these sides, drawn at random, instead of
        `image_size`: DELF's random rescaling for attention, in a few static shapes.
      views: pictures made of each record, next to each other in the batch.
      num_classes: labels must lie in 0..num_classes-1; 0 leaves them unchecked.
      seed: of crops and distortions.
      deterministic: False lets fast elements overtake slow ones, for speed; a resumed run then
        differs from an undisturbed one.
    """

    stream: RecordStream
    batch_size: int
    image_size: int
    crop: str = "random_resized"
    crop_options: tuple[tuple[str, Any], ...] = ()
    distortions: tuple[tuple[str, float, float], ...] = ()
    rescale_sides: tuple[int, ...] = ()
    num_classes: int = 0
    views: int = 1
    seed: int = 0
    deterministic: bool = True

    def __post_init__(self) -> None:
        require_choice("crop", self.crop, augmentation.CROPS)
        for name, _, _ in self.distortions:
            require_choice("distortion", name, augmentation.DISTORTIONS)
        require(self.batch_size > 0, "batch_size must be positive.", batch_size=self.batch_size)
        require(self.image_size > 0, "image_size must be positive.", image_size=self.image_size)
        require(
            self.views > 0 and self.batch_size % self.views == 0,
            "batch_size must be a multiple of views.",
            batch_size=self.batch_size,
            views=self.views,
        )

    @property
    def records_per_step(self) -> int:
        """Records of a global batch."""
        return self.batch_size // self.views

    def dataset(
        self, step: int = 0, *, worker: int = 0, num_workers: int = 1, num_replicas: int = 1
    ) -> tf.data.Dataset:
        """Returns the batches from `step` on.

        Every worker reads the same stream and decodes its part of each global batch, so that the
        global batch does not depend on their number.

        Args:
          step: first global step.
          worker: which process this is.
          num_workers: processes.
          num_replicas: replicas of this worker; their batches follow each other.

        Returns:
          (images float32 [b, S, S, 3] in 0..255, labels int64 [b]) with
          b = batch_size / num_workers / num_replicas, static.

        Raises:
          InputError: the batch does not divide evenly.
        """
        per_worker, per_replica = self._shares(worker, num_workers, num_replicas)
        records = self.stream.dataset(step * self.records_per_step)
        if num_workers > 1:
            records = records.filter(
                lambda position, _: position * self.views % self.batch_size // per_worker == worker
            )
        images = records.map(
            self._decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=self.deterministic
        )
        if self.views > 1:
            images = images.unbatch()
        return images.batch(per_replica, drop_remainder=True).prefetch(tf.data.AUTOTUNE)

    def batch_ids(self, step: int) -> list[str]:
        """Returns the ids of a step's images, in the global batch's order."""
        records = self.stream.dataset(step * self.records_per_step).take(self.records_per_step)
        ids = records.map(lambda _, serialized: schema.parse_example(serialized)["id"])
        return [one.decode("utf-8", "replace") for one in ids.as_numpy_iterator()]

    def _shares(self, worker: int, num_workers: int, num_replicas: int) -> tuple[int, int]:
        require(
            0 <= worker < num_workers and self.records_per_step % (num_workers * num_replicas) == 0,
            "batch_size must be a multiple of the number of replicas of all workers (times views).",
            batch_size=self.batch_size,
            worker=worker,
            num_workers=num_workers,
            num_replicas=num_replicas,
        )
        per_worker = self.batch_size // num_workers
        return per_worker, per_worker // num_replicas

    def _decode(self, position: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = schema.parse_example(serialized)
        label = self._checked_label(parsed)
        seed = augmentation.fold_in(tf.constant([self.seed, _PIXELS]), position)
        if self.views == 1:
            return self._view(parsed["encoded"], seed, position), label
        views = [
            self._view(parsed["encoded"], augmentation.fold_in(seed, 2 + view), position)
            for view in range(self.views)
        ]
        return tf.stack(views), tf.fill([self.views], label)

    def _view(self, encoded: tf.Tensor, seed: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        if not self.rescale_sides:
            return self._picture(encoded, seed, self.image_size)
        step = position // self.records_per_step
        drawn = tf.random.stateless_uniform(
            [],
            augmentation.fold_in(tf.constant([self.seed, _SIDES]), step),
            maxval=len(self.rescale_sides),
            dtype=tf.int32,
        )
        branches = [
            lambda side=side: self._picture(encoded, seed, side) for side in self.rescale_sides
        ]
        return tf.switch_case(drawn, branches)

    def _checked_label(self, parsed: dict[str, tf.Tensor]) -> tf.Tensor:
        label = parsed["label"]
        if not self.num_classes:
            return label
        inside = (label >= 0) & (label < self.num_classes)
        message = f"Labels must lie in 0..{self.num_classes - 1}. Received label and image:"
        check = tf.debugging.Assert(inside, [message, label, parsed["id"]])
        # Eagerly the assertion has raised already and is None.
        with tf.control_dependencies([] if check is None else [check]):
            return tf.identity(label)

    def _picture(self, encoded: tf.Tensor, seed: tf.Tensor, side: int) -> tf.Tensor:
        crop = augmentation.CROPS[self.crop]
        image = crop(
            encoded,
            augmentation.fold_in(seed, 0),
            image_size=side,
            **dict(self.crop_options),
        )
        return augmentation.distort(image, augmentation.fold_in(seed, 1), self.distortions)


def _shuffled(records: tf.data.Dataset, num: int, seed: tf.Tensor) -> tf.data.Dataset:
    """Returns up to `num` records in an order that depends on `seed`, int32 [2], alone.

    Records change places without being copied. `Dataset.shuffle` would let the program's global
    seed into the order.
    """
    variant = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(records),
        buffer_size=tf.constant(num, tf.int64),
        seed=tf.cast(seed[0], tf.int64),
        seed2=tf.cast(seed[1], tf.int64),
        output_types=[tf.string],
        output_shapes=[tf.TensorShape([])],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(variant, records.element_spec)


def repaired(records: schema.Records, folder: str, max_bad_records: int) -> schema.Records:
    """Returns records without the damaged ones: copies of the damaged shards' good records.

    Args:
      records: from `schema.open_records`.
      folder: where copies go.
      max_bad_records: more are refused.

    Raises:
      InputError: too many; the first are named.
    """
    if not records.bad:
        return records
    named = [f"{bad.path} record {bad.index}: {bad.reason}" for bad in records.bad[:5]]
    require(
        len(records.bad) <= max_bad_records,
        "At most max_bad_records records may be damaged.",
        hint="Build the shards again, or skip them: --set=training.input.max_bad_records=N.",
        num_bad=len(records.bad),
        max_bad_records=max_bad_records,
        first=named,
    )
    damaged = {bad.path for bad in records.bad}
    paths, counts = list(records.paths), list(records.counts)
    for row, path in enumerate(records.paths):
        if path in damaged:
            found = record_files.scan(path, check="full")
            copy = f"{folder}/{path.rpartition('/')[2]}"
            paths[row] = str(record_files.repair(found, copy))
            counts[row] = found.num_records
    return dataclasses.replace(records, paths=tuple(paths), counts=tuple(counts), bad=())


def label_range(paths: Sequence[str], num_records: int | None = None) -> tuple[int, int]:
    """Returns the least and the greatest label of the first `num_records` records (None: all)."""
    dataset = tf.data.TFRecordDataset(list(paths))
    if num_records is not None:
        dataset = dataset.take(num_records)
    labels = dataset.map(lambda one: schema.parse_example(one)["label"])
    extremes = labels.batch(4096).map(lambda one: (tf.reduce_min(one), tf.reduce_max(one)))
    pairs = list(extremes.as_numpy_iterator())
    require(bool(pairs), "Records must not be empty.", paths=tuple(paths)[:3])
    return int(min(low for low, _ in pairs)), int(max(high for _, high in pairs))
