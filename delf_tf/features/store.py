"""The feature store: features of up to millions of images, sharded, resumable, checked.

A folder with manifest.json (what made it, and its layout), ids.json (the list of images) and one
file a block of images (see `blocks`). `create` and `writer` fill it; `FeatureStore` reads it.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from delf_tf import artifacts
from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, did_you_mean, invalid, require
from delf_tf.features import codecs, manifest
from delf_tf.features.blocks import Block, ImageFeatures
from delf_tf.features.creation import create
from delf_tf.features.sources import Source
from delf_tf.features.writer import ShardWriter, writer
from delf_tf.types import GlobalDescriptors, LocalFeatures

__all__ = ["FeatureStore", "ImageFeatures", "ShardWriter", "create", "writer"]

_MAX_OPEN_BLOCKS = 1024


class FeatureStore:
    """A store opened for reading; its methods may be called from several threads.

    Attributes:
      path: its folder.
      fingerprint: of the model and config that made it.
      num_shards: parts it was written in.
      block_size: images a file.
      global_dim: width of the global descriptors, or None.
      local_dim: width of the local descriptors, or None.
      local_codec: name of the codec of the local features, or None.
      codec: that codec.
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
        self._manifest = manifest.read_manifest(self.path)
        self.codec = codecs.read_codec(self.path, self._manifest)
        self.fingerprint = self._manifest.fingerprint
        self.num_shards = self._manifest.num_shards
        self.block_size = self._manifest.block_size
        self.global_dim = self._manifest.global_dim
        self.local_dim = self._manifest.local_dim
        self.local_codec = self._manifest.local_codec
        self._all_ids = manifest.read_ids(self.path, self._manifest)
        self._names, self._bounds, missing = self._find_blocks()
        self.num_missing_blocks = sum(missing.values())
        if missing and not allow_incomplete:
            raise self._incomplete(missing)
        self._open = functools.lru_cache(maxsize=_MAX_OPEN_BLOCKS)(self._open_block)

    def __len__(self) -> int:
        """Returns the number of images in the list that the store was created for."""
        return len(self._all_ids)

    def all_ids(self) -> tuple[str, ...]:
        """Returns the list that the store was created for, failed images included."""
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

    def global_blocks(self) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        """Yields (n ids, float32 [n, D]) block by block; together they are `ids()` in order.

        Raises:
          InputError: the store holds no global descriptors, or damage.
        """
        require(
            self.global_dim is not None,
            "The store must hold global descriptors.",
            hint="Extract with use_global_features.",
            path=self.path,
        )
        for index, (start, stop) in enumerate(self._bounds):
            block, ids = self._open(index), self._all_ids[start:stop]
            keep = [row for row, one in enumerate(ids) if one not in block.failures]
            yield tuple(ids[row] for row in keep), block.read_vectors()[keep]

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
        for index in range(len(self._bounds)):
            yield from self._open_block(index).sources().items()

    def sources_of(self, names: Iterable[str]) -> dict[str, Source]:
        """Returns which files the features of some images were made from, where that is known.

        Raises:
          InputError: as `read`; an image may have failed.
        """
        rows: dict[int, list[str]] = {}
        for name in names:
            rows.setdefault(self._find_block(name), []).append(name)
        found = {index: self._open(index).sources() for index in rows}
        return {
            one: found[index][one]
            for index, some in rows.items()
            for one in some
            if one in found[index]
        }

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
        sizes = [self._open(index).num_bytes() for index in range(len(self._bounds))]
        num = max(1, len(self.ids()))
        total = np.sum(sizes, axis=0) if sizes else (0, 0)
        return {"global": float(total[0]) / num, "local": float(total[1]) / num}

    def verify(self) -> list[str]:
        """Reads every byte; returns the names of the damaged files."""
        return [name for index, name in enumerate(self._names) if not self._is_whole(index)]

    def writer(self, shard: int = 0, num_shards: int = 1) -> ShardWriter:
        """Opens one shard for writing; see `writer.writer`."""
        return writer(self.path, shard, num_shards)

    @functools.cached_property
    def _failed(self) -> dict[str, str]:
        failed: dict[str, str] = {}
        for index in range(len(self._bounds)):
            failed.update(self._open_block(index).failures)
        return failed

    @functools.cached_property
    def _ids(self) -> tuple[str, ...]:
        failed = self._failed
        return tuple(
            one
            for start, stop in self._bounds
            for one in self._all_ids[start:stop]
            if one not in failed
        )

    @functools.cached_property
    def _positions(self) -> dict[str, int]:
        return {one: position for position, one in enumerate(self._all_ids)}

    @functools.cached_property
    def _starts(self) -> np.ndarray:
        return np.array([start for start, _ in self._bounds], np.int64)

    def _open_block(self, index: int) -> Block:
        start, stop = self._bounds[index]
        path = self.path / self._names[index]
        return Block(path, self._all_ids[start:stop], self._manifest, self.codec)

    def _is_whole(self, index: int) -> bool:
        try:
            self._open_block(index).verify()
        except InputError:
            return False
        return True

    def _find(self, name: str) -> tuple[Block, int]:
        index = self._find_block(name)
        block = self._open(index)
        if name in block.failures:
            reason = block.failures[name]
            raise invalid("The image must not have failed.", id=name, reason=reason)
        return block, self._positions[name] - self._bounds[index][0]

    def _find_block(self, name: str) -> int:
        position = self._positions.get(name)
        if position is None:
            raise invalid(
                "The image's id must be in the store.",
                hint=did_you_mean(name, self._all_ids[:10_000]),
                id=name,
                path=self.path,
            )
        index = int(np.searchsorted(self._starts, position, side="right")) - 1
        if index < 0 or position >= self._bounds[index][1]:
            raise invalid("The image's block must have been written.", id=name, path=self.path)
        return index

    def _find_blocks(self) -> tuple[list[str], list[tuple[int, int]], dict[int, int]]:
        present = {entry.name for entry in os.scandir(self.path)}
        names, bounds, missing = [], [], {}
        for shard in range(self.num_shards):
            for number, start, stop in self._manifest.blocks(shard):
                name = self._manifest.block_name(shard, number)
                if name in present:
                    names.append(name)
                    bounds.append((start, stop))
                else:
                    missing[shard] = missing.get(shard, 0) + 1
        return names, bounds, missing

    def _incomplete(self, missing: dict[int, int]) -> InputError:
        num, total = self.num_missing_blocks, self.num_missing_blocks + len(self._names)
        shards = ", ".join(map(str, list(missing)[:8])) + (", …" if len(missing) > 8 else "")
        return invalid(
            f"The store must be complete; {num} of {total} blocks are missing, in shards {shards}.",
            hint="Run `delf_tf extract` again with the same arguments, for each of these shards S "
            f"with --shard_index=S --num_shards={self.num_shards}: it continues.",
            path=self.path,
        )
