"""A stream of the records of mined tuples, instead of all records in random order.

Each epoch is mined with the weights of its first step and kept in a file, so that a run that was
killed in its midst sees the same tuples again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from delf_tf import artifacts, npz
from delf_tf.checks import InputError, require
from delf_tf.datasets.input import augmentation
from delf_tf.datasets.records import schema
from delf_tf.datasets.records.lookup import RecordLookup
from delf_tf.datasets.sfm120k import SfmSplit
from delf_tf.models.retrieval_model import RetrievalModel
from delf_tf.training.tuples import TupleMiner


class TupleStream:
    """The records of tuples: a tuple's query, its positive, its negatives, then the next tuple's.

    It takes the place of an InputPipeline's RecordStream. Its datasets end with the epoch; the
    trainer then asks for the next one.

    Attributes:
      num_records: records of an epoch, in whole batches.
    """

    def __init__(
        self,
        lookup: RecordLookup,
        miner: TupleMiner,
        describe: Callable[[Sequence[int]], np.ndarray],
        folder: artifacts.StrPath,
        *,
        batch_size: int,
        fingerprint: str = "",
    ):
        """Prepares; nothing is mined yet.

        Args:
          lookup: of the records.
          miner: of a split all of whose images have records, see `with_records`.
          describe: of rows of `lookup`; returns float [M, D], L2-normalised, by the weights of the
            moment.
          folder: where epochs are kept.
          batch_size: images of a global step, of whole tuples; what does not fill a last batch of
            an epoch is left out.
          fingerprint: of the run; epochs kept by another one are mined anew.

        Raises:
          InputError: a batch that is not of whole tuples, or larger than an epoch; an image without
            a record.
        """
        size = 2 + miner.num_negatives
        require(
            batch_size % size == 0 and 0 < batch_size <= miner.num_queries * size,
            "batch_size must be a multiple of 2 + num_negatives and at most an epoch's images.",
            batch_size=batch_size,
            num_negatives=miner.num_negatives,
            images_of_an_epoch=miner.num_queries * size,
        )
        self._lookup, self._miner, self._describe = lookup, miner, describe
        self._folder, self._fingerprint = Path(folder), fingerprint
        row_of = {one: row for row, one in enumerate(lookup.ids)}
        lost = [one for one in miner.split.image_ids if one not in row_of]
        require(
            not lost,
            "Each image of the split must have a record.",
            hint="Leave out the others by with_records.",
            num_lost=len(lost),
            first=lost[:3],
        )
        self._record_rows = np.array([row_of[one] for one in miner.split.image_ids], np.int64)
        self.num_records = miner.num_queries * size // batch_size * batch_size
        self._mined: tuple[int, np.ndarray] | None = None

    def dataset(self, position: int = 0) -> tf.data.Dataset:
        """Returns (int64 position, serialised example) from a position to its epoch's end."""
        require(position >= 0, "position must not be negative.", position=position)
        epoch, passed = divmod(position, self.num_records)
        rows = self._epoch(epoch, passed).ravel()[passed : self.num_records]
        return self._lookup.dataset(self._record_rows[rows]).enumerate(position)

    def _epoch(self, epoch: int, passed: int) -> np.ndarray:
        """Returns the rows [T, 2 + K] of an epoch: as known, as kept, or mined."""
        if self._mined is None or self._mined[0] != epoch:
            path = self._folder / f"epoch-{epoch:06d}.npz"
            rows = self._read(path)
            if rows is None:
                if passed:
                    logging.warning(
                        "%s is gone or damaged: the rest of the epoch is mined anew.", path
                    )
                rows = self._mine(epoch, path)
            self._mined = epoch, rows
        return self._mined[1]

    def _mine(self, epoch: int, path: Path) -> np.ndarray:
        mined = self._miner.mine(epoch, self._describe, self._record_rows)
        distance = mined.mean_negative_distance
        logging.info("Epoch %d: negatives lie %.3f from their queries on average.", epoch, distance)
        with artifacts.atomic_write(path) as file:
            np.savez(
                file,
                rows=mined.rows,
                mean_negative_distance=distance,
                fingerprint=self._fingerprint,
            )
        return mined.rows

    def _read(self, path: Path) -> np.ndarray | None:
        try:
            kept = npz.read_npz(path, ("rows", "fingerprint"))
        except InputError:
            return None
        rows, same = kept["rows"], str(kept["fingerprint"]) == self._fingerprint
        shape = (self._miner.num_queries, 2 + self._miner.num_negatives)
        known = rows.shape == shape and rows.dtype == np.int64 and rows.min(initial=0) >= 0
        return rows if same and known and rows.max() < len(self._record_rows) else None


class RecordDescriber:
    """Global descriptors of records: the network's training "embedding", L2-normalised.

    Pictures are squashed to squares, so that one graph serves them all.
    """

    def __init__(
        self, model: RetrievalModel, lookup: RecordLookup, *, image_size: int, batch_size: int = 32
    ):
        """Prepares.

        Args:
          model: describes with the weights that it has at each call.
          lookup: of the records.
          image_size: pixels.
          batch_size: images described together.
        """
        self._lookup, self._size, self._batch_size = lookup, image_size, batch_size

        def embed(images: tf.Tensor) -> tf.Tensor:
            embedding = model.training_outputs(images, training=False)["embedding"]
            return tf.math.l2_normalize(tf.cast(embedding, tf.float32), axis=1)

        self._embed = tf.function(embed)

    def __call__(self, rows: Sequence[int]) -> np.ndarray:
        """Returns float32 [M, D] of rows of the lookup."""
        rows = np.asarray(rows, np.int64)
        # Batches of one size: the last image is repeated, and what it gives is cut off.
        padded = np.append(rows, np.repeat(rows[-1:], -len(rows) % self._batch_size))
        pictures = self._lookup.dataset(padded).map(
            self._picture, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        batches = pictures.batch(self._batch_size, drop_remainder=True).prefetch(2)
        return np.concatenate([self._embed(batch).numpy() for batch in batches])[: len(rows)]

    def _picture(self, serialized: tf.Tensor) -> tf.Tensor:
        encoded = schema.parse_example(serialized)["encoded"]
        return augmentation.CROPS["squash"](encoded, tf.zeros([2], tf.int32), image_size=self._size)


def with_records(split: SfmSplit, lookup: RecordLookup) -> SfmSplit:
    """Returns a split's images that have a record, and the pairs both of whose images do.

    Raises:
      InputError: no pair is left.
    """
    present = set(lookup.ids)
    has_record = np.array([one in present for one in split.image_ids], bool)
    kept = has_record[split.query_rows] & has_record[split.positive_rows]
    require(
        bool(kept.any()),
        "Some pair of the split must have both its records.",
        hint="Build the records of the same split: build_tfrecords --dataset=sfm120k --split=…",
        num_pairs=len(kept),
        images_of_split=split.image_ids[:2],
        images_of_records=lookup.ids[:2],
    )
    new_rows = np.cumsum(has_record) - 1
    if not has_record.all():
        logging.warning(
            "%d of %d images have no record; %d of %d pairs are left out.",
            int((~has_record).sum()),
            len(has_record),
            int((~kept).sum()),
            len(kept),
        )
    return SfmSplit(
        tuple(one for one, has in zip(split.image_ids, has_record) if has),
        split.clusters[has_record],
        new_rows[split.query_rows[kept]],
        new_rows[split.positive_rows[kept]],
    )
