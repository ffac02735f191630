"""The feature store: features of up to millions of images, sharded, resumable, checked.

A folder with manifest.json (what made it, and its layout), ids.json (the list of images) and one
file a block of images (see `blocks`). `create` and `writer` fill it; `FeatureStore` reads it. One
whose images have come and gone since has a collection.json and further generations of blocks as
well: `updates` writes them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from delf_tf import artifacts
from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, did_you_mean, invalid, require
from delf_tf.features import manifest
from delf_tf.features.blocks import Block, ImageFeatures, Row
from delf_tf.features.creation import create
from delf_tf.features.generations import collection
from delf_tf.features.generations.generation import Generation
from delf_tf.features.sources import Source
from delf_tf.features.writer import ShardWriter, writer
from delf_tf.types import GlobalDescriptors, LocalFeatures

__all__ = ["FeatureStore", "ImageFeatures", "ShardWriter", "create", "writer"]


class FeatureStore:
    """A store opened for reading; its methods may be called from several threads.

    Attributes:
      path: its folder.
      manifest: what is told of it.
      fingerprint: of the model and config that made it.
      global_dim: width of the global descriptors, or None.
      local_dim: width of the local descriptors, or None.
      local_codec: name of the codec of the local features, or None.
      codec: that codec, or None.
      num_missing_blocks: blocks that are not there yet.
    """

    def __init__(self, path: StrPath, *, allow_incomplete: bool = False):
        """Opens a store.

        Args:
          path: its folder.
          allow_incomplete: whether blocks may be missing; their images are then not in `ids()`.

        Raises:
          InputError: no store there, a damaged manifest, or blocks are missing.
        """
        self.path = Path(path)
        self.manifest = manifest.read_manifest(self.path)
        self.codec = self.manifest.codec
        self.fingerprint = self.manifest.fingerprint
        self.global_dim = self.manifest.global_dim
        self.local_dim = self.manifest.local_dim
        self.local_codec = self.manifest.local_codec
        self._generations, self._all_ids, rows = self._open_collection()
        self._generation_of, self._positions = rows.T
        self._blocks, self._rows = self._locate()
        missing = self._missing()
        self.num_missing_blocks = sum(missing.values())
        if missing and not allow_incomplete:
            raise self._incomplete(missing)

    def __len__(self) -> int:
        """Returns the number of images in the list that the store is for."""
        return len(self._all_ids)

    def all_ids(self) -> tuple[str, ...]:
        """Returns the list that the store is for, failed images included."""
        return self._all_ids

    def ids(self) -> tuple[str, ...]:
        """Returns the ids that can be read, in the list's order."""
        return self._ids

    def failed(self) -> dict[str, str]:
        """Returns why images have no features, by id."""
        return dict(self._failed)

    def read(self, name: str) -> ImageFeatures:
        """Returns all that is stored of the image whose id is `name`.

        Raises:
          InputError: no such id, an image that failed, or damage.
        """
        block, row = self._find(name)
        vector = None if self.global_dim is None else block.read_vector(row)
        local = None if self.codec is None else self.codec.decode(block.read_fields(row))
        return ImageFeatures(vector, local)

    def read_local(self, name: str) -> LocalFeatures:
        """Returns the local features of the image whose id is `name`.

        Raises:
          InputError: as `read`, or the store holds no local features.
        """
        require(
            self.codec is not None,
            "The store must hold local features.",
            hint="Extract with use_local_features, or leave out the re-ranking.",
            path=self.path,
        )
        block, row = self._find(name)
        return self.codec.decode(block.read_fields(row))

    def read_row(self, name: str) -> Row:
        """Returns all that is stored of the image whose id is `name`, as it is encoded.

        Raises:
          InputError: as `read`.
        """
        block, row = self._find(name)
        return block.read_row(row)

    def global_blocks(self, min_rows: int = 1) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        """Yields (n ids, float32 [n, D]) block by block; together they are `ids()` in order.

        Args:
          min_rows: blocks are put together until they have so many rows, but for the last.

        Raises:
          InputError: the store holds no global descriptors, or damage.
        """
        require(
            self.global_dim is not None,
            "The store must hold global descriptors.",
            hint="Extract with use_global_features.",
            path=self.path,
        )
        ids: list[str] = []
        parts: list[np.ndarray] = []
        for run in self._runs():
            # A block's rows are neighbours, but for those that failed.
            rows = [row for row in run.tolist() if self._all_ids[row] not in self._failed]
            ids.extend(self._all_ids[row] for row in rows)
            if rows:
                parts.append(self._block(rows[0]).read_vectors()[self._rows[rows]])
            # Where images have come and gone, neighbours lie in blocks far apart.
            if ids and len(ids) >= max(min_rows, self.manifest.block_size / 2):
                yield tuple(ids), np.concatenate(parts)
                ids, parts = [], []
        if ids:
            yield tuple(ids), np.concatenate(parts)

    def global_descriptors(self) -> GlobalDescriptors:
        """Returns the global descriptors of `ids()`, all in memory.

        Raises:
          InputError: the store holds no global descriptors, or damage.
        """
        ids: list[str] = []
        vectors = [np.zeros((0, self.global_dim or 0), np.float32)]
        for some, block in self.global_blocks():
            ids.extend(some)
            vectors.append(block)
        return GlobalDescriptors(tuple(ids), np.concatenate(vectors))

    def sources(self) -> Iterator[tuple[str, Source]]:
        """Yields the images whose files are known, each with the file that it was made from.

        Raises:
          InputError: damage.
        """
        for run in self._runs():
            yield from self._known(run.tolist())

    def sources_of(self, names: Iterable[str]) -> dict[str, Source]:
        """Returns which files the features of some images were made from, where that is known.

        Raises:
          InputError: as `read`; an image may have failed.
        """
        rows: dict[Block, list[int]] = {}
        for name in names:
            row = self._row(name)
            rows.setdefault(self._block(row), []).append(row)
        return {one: source for some in rows.values() for one, source in self._known(some)}

    def identity(self, names: Iterable[str] | None = None) -> str:
        """Returns what changes with the features: the fingerprint, with the images' hashes.

        Args:
          names: images that alone count; None: all.

        Raises:
          InputError: as `sources_of`.
        """
        known = self.sources() if names is None else self.sources_of(names).items()
        digest, num = hashlib.sha256(), 0
        for one, source in known:
            digest.update(f"{one} {source}\n".encode())
            num += 1
        return artifacts.fingerprint(self.fingerprint, digest.digest()) if num else self.fingerprint

    def bytes_per_image(self) -> dict[str, float]:
        """Returns the mean bytes on disk of an image that did not fail, by kind.

        Returns:
          {"global": …, "local": …}; 0 for what the store does not hold.
        """
        num = max(1, len(self.ids()))
        sizes = [one.num_bytes() for one in self._generations]
        total = np.sum(sizes, axis=0)
        return {"global": float(total[0]) / num, "local": float(total[1]) / num}

    def verify(self) -> list[str]:
        """Reads every byte; returns the names of the damaged files."""
        return [name for one in self._generations for name in one.damaged()]

    @functools.cached_property
    def _failed(self) -> dict[str, str]:
        """Why images failed, by id."""
        reasons: dict[str, str] = {}
        for number, one in enumerate(self._generations):
            told = one.failures()
            for row in np.flatnonzero(self._generation_of == number).tolist() if told else ():
                stored = one.ids[self._positions[row]]
                if stored in told:
                    reasons[self._all_ids[row]] = told[stored]
        return {one: reasons[one] for one in self._all_ids if one in reasons} if reasons else {}

    @functools.cached_property
    def _ids(self) -> tuple[str, ...]:
        failed = self._failed
        there = zip(self._all_ids, self._blocks >= 0)
        return tuple(one for one, is_there in there if is_there and one not in failed)

    @functools.cached_property
    def _row_by_id(self) -> dict[str, int]:
        return {one: row for row, one in enumerate(self._all_ids)}

    def _open_collection(self) -> tuple[list[Generation], tuple[str, ...], np.ndarray]:
        """Returns the generations, the ids, and for each its generation and position, [N, 2]."""
        told, opened = collection.open_all(self.path, self.manifest)
        if told is None:
            positions = np.arange(len(opened[0].ids))
            return opened, opened[0].ids, np.stack([np.zeros_like(positions), positions], axis=1)
        rows = np.array(told.rows, np.int64).reshape(-1, 2)
        sizes = np.array([len(one.ids) for one in opened])
        require(
            bool((rows[:, 1] < sizes[rows[:, 0]]).all()),
            f"{collection.NAME} must name images of its generations.",
            path=self.path,
        )
        return opened, tuple(told.ids), rows

    def _locate(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns each image's block in its generation, -1 where missing, and its row there."""
        blocks, rows = np.full((2, len(self._all_ids)), -1, np.int64)
        for number, one in enumerate(self._generations):
            mine = self._generation_of == number
            blocks[mine], rows[mine] = one.locate(self._positions[mine])
        return blocks, rows

    def _missing(self) -> dict[int, int]:
        """Returns by shard how many blocks are missing that the images of now need."""
        lacking = np.unique(self._generation_of[self._blocks < 0])
        missing: dict[int, int] = {}
        for number in lacking.tolist():
            for shard, num in self._generations[number].missing.items():
                missing[shard] = missing.get(shard, 0) + num
        return missing

    def _runs(self) -> Iterator[np.ndarray]:
        """Yields the rows of neighbours that lie in one block, which is there."""
        starts = np.flatnonzero(
            (np.diff(self._blocks, prepend=-2) != 0)
            | (np.diff(self._generation_of, prepend=-2) != 0)
        )
        for start, stop in zip(starts, np.append(starts[1:], len(self._all_ids))):
            if self._blocks[start] >= 0:
                yield np.arange(start, stop)

    def _known(self, rows: Sequence[int]) -> Iterator[tuple[str, Source]]:
        """Yields the images whose files are known, of rows in one block."""
        told = self._block(rows[0]).sources()
        for row in rows:
            stored = self._stored_id(row)
            if stored in told:
                yield self._all_ids[row], told[stored]

    def _block(self, row: int) -> Block:
        return self._generations[self._generation_of[row]].block(int(self._blocks[row]))

    def _find(self, name: str) -> tuple[Block, int]:
        row = self._row(name)
        block, stored = self._block(row), self._stored_id(row)
        if stored in block.failures:
            reason = block.failures[stored]
            raise invalid("The image must not have failed.", id=name, reason=reason)
        return block, int(self._rows[row])

    def _row(self, name: str) -> int:
        row = self._row_by_id.get(name)
        if row is None:
            raise invalid(
                "The image's id must be in the store.",
                hint=did_you_mean(name, self._all_ids[:10_000]),
                id=name,
                path=self.path,
            )
        if self._blocks[row] < 0:
            raise invalid("The image's block must have been written.", id=name, path=self.path)
        return row

    def _stored_id(self, row: int) -> str:
        return self._generations[self._generation_of[row]].ids[self._positions[row]]

    def _incomplete(self, missing: dict[int, int]) -> InputError:
        num = self.num_missing_blocks
        total = sum(len(one) + sum(one.missing.values()) for one in self._generations)
        shards = ", ".join(map(str, list(missing)[:8])) + (", …" if len(missing) > 8 else "")
        return invalid(
            f"The store must be complete; {num} of {total} blocks are missing, in shards {shards}.",
            hint="Run `delf_tf extract` again with the same arguments, for each of these shards S "
            f"with --shard_index=S --num_shards={self.manifest.num_shards}: it continues.",
            path=self.path,
        )
