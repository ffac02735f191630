"""Random access to records by image id."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from delf_tf.checks import require
from delf_tf.datasets.records import files as record_files
from delf_tf.datasets.records import schema
from delf_tf.progress import track

# Framing before a record's payload: its length and the length's checksum.
_HEADER_BYTES = 12


@dataclasses.dataclass(frozen=True, eq=False)
class RecordLookup:
    """The records of some shards.

    Attributes:
      ids: N ids of images, each once.
      paths: the shards.
      shards: int64 [N], which of `paths` holds a record.
      offsets: int64 [N], where its payload begins, bytes.
      lengths: int64 [N], of the payload, bytes.
      sizes: int64 [len(paths)], of the shards, bytes.
    """

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    shards: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    sizes: np.ndarray

    def dataset(self, rows: np.ndarray) -> tf.data.Dataset:
        """Returns the serialised examples (scalar strings) of integer `rows` [M], in their order.

        Raises:
          InputError: a row that is none of 0..N-1.
        """
        rows = np.asarray(rows, np.int64)
        inside = ((rows >= 0) & (rows < len(self.ids))).all()
        require(bool(inside), "rows must be rows of ids.", rows=rows, num_ids=len(self.ids))
        shards, offsets, lengths = self.shards[rows], self.offsets[rows], self.lengths[rows]
        places = (shards, offsets, lengths, self.sizes[shards] - offsets - lengths)
        paths = tf.constant(self.paths, tf.string, (len(self.paths),))

        def read(
            shard: tf.Tensor, offset: tf.Tensor, length: tf.Tensor, rest: tf.Tensor
        ) -> tf.Tensor:
            # TensorFlow reads it as the file's one record of fixed length: remote folders work too,
            # and in parallel.
            one = tf.data.FixedLengthRecordDataset(paths[shard], length, offset, rest)
            return one.get_single_element()

        return tf.data.Dataset.from_tensor_slices(places).map(
            read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )


def locate_records(paths: Sequence[str]) -> RecordLookup:
    """Finds every record's id by reading the shards once; damaged records are left out.

    Raises:
      InputError: an id occurs twice, or a record is no example with an id.
    """
    ids: list[str] = []
    shards, offsets, lengths, sizes = [], [], [], []
    for shard, path in enumerate(track(paths, len(paths), "shards", "locating records")):
        found = record_files.scan(path)
        with record_files.open_file(path) as file:
            sizes.append(file.seek(0, os.SEEK_END) or file.tell())
            for offset, length in zip(found.offsets.tolist(), found.lengths.tolist()):
                file.seek(offset + _HEADER_BYTES)
                ids.append(_image_id(file.read(length), path))
        shards += [shard] * found.num_records
        offsets.append(found.offsets + _HEADER_BYTES)
        lengths.append(found.lengths)
    require(
        len(set(ids)) == len(ids),
        "The shards must hold each image once.",
        num_records=len(ids),
        num_ids=len(set(ids)),
    )
    empty = [np.zeros(0, np.int64)]
    return RecordLookup(
        tuple(ids),
        tuple(map(str, paths)),
        np.array(shards, np.int64),
        np.concatenate(offsets or empty),
        np.concatenate(lengths or empty),
        np.array(sizes, np.int64),
    )


def _image_id(payload: bytes, path: str) -> str:
    try:
        features = tf.train.Example.FromString(payload).features.feature
    except DecodeError:
        features = {}
    values = features[schema.ID].bytes_list.value if schema.ID in features else ()
    require(len(values) == 1, "Each record must be an example with an image/id.", shard=str(path))
    return values[0].decode("utf-8", "replace")
