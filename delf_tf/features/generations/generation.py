"""The blocks of one folder: a store that never changed, or one generation of one that did."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from delf_tf.checks import InputError
from delf_tf.features import manifest
from delf_tf.features.blocks import Block
from delf_tf.features.manifest import Manifest
from delf_tf.features.sources import Source

_MAX_OPEN_BLOCKS = 1024


class Facts(NamedTuple):
    """What blocks' headers tell.

    Attributes:
      ids: of all images of these blocks.
      failures: why images have no features, by id.
      sources: which files the features were made from, by id, where that is known.
    """

    ids: set[str]
    failures: dict[str, str]
    sources: dict[str, Source]


class Generation:
    """A list of images and those blocks of them that are there; reads are thread-safe.

    Attributes:
      path: the folder.
      manifest: of it.
      ids: all images that the blocks are for; a place in it is an image's position.
      missing: by shard, how many of its blocks are not there.
    """

    def __init__(self, path: Path, content: Manifest):
        """Finds the blocks.

        Args:
          path: the folder.
          content: of its manifest.json.

        Raises:
          InputError: ids.json is missing or another's.
        """
        self.path, self.manifest = path, content
        self.ids = manifest.read_ids(path, content)
        self.missing: dict[int, int] = {}
        self._names: list[str] = []
        self._bounds: list[tuple[int, int]] = []
        present = {entry.name for entry in os.scandir(path)}
        for shard in range(content.num_shards):
            for number, start, stop in content.blocks(shard):
                name = content.block_name(shard, number)
                if name in present:
                    self._names.append(name)
                    self._bounds.append((start, stop))
                else:
                    self.missing[shard] = self.missing.get(shard, 0) + 1
        self._starts = np.array([start for start, _ in self._bounds], np.int64)
        self.block = functools.lru_cache(maxsize=_MAX_OPEN_BLOCKS)(self._open)

    def __len__(self) -> int:
        """Returns the number of blocks that are there."""
        return len(self._names)

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the blocks int64 [N] of positions [N], -1 where missing, and rows in them."""
        if not len(self):
            return np.full(len(positions), -1), np.zeros(len(positions), np.int64)
        blocks = np.searchsorted(self._starts, positions, side="right") - 1
        stops = np.array([stop for _, stop in self._bounds])
        there = (blocks >= 0) & (positions < stops[blocks])
        return np.where(there, blocks, -1), positions - self._starts[blocks]

    def failures(self) -> dict[str, str]:
        """Returns why images failed, by id.

        Raises:
          InputError: a damaged block.
        """
        found: dict[str, str] = {}
        for index in range(len(self)):
            found.update(self._open(index).failures)
        return found

    def facts(self, *, verify: bool) -> Facts:
        """Reads all blocks' headers.

        Args:
          verify: read every byte as well, and leave damaged blocks out.

        Raises:
          InputError: a damaged block, unless `verify`.
        """
        found = Facts(set(), {}, {})
        for index in range(len(self)):
            if verify and not self.is_whole(index):
                continue
            block = self._open(index)
            found.ids.update(block.ids)
            found.failures.update(block.failures)
            found.sources.update(block.sources())
        return found

    def is_whole(self, index: int) -> bool:
        """Reads every byte of a block; whether they are as they were written."""
        try:
            self._open(index).verify()
        except InputError:
            return False
        return True

    def damaged(self) -> list[str]:
        """Returns the names of the damaged files."""
        return [name for index, name in enumerate(self._names) if not self.is_whole(index)]

    def num_bytes(self) -> np.ndarray:
        """Returns the bytes on disk of global descriptors and of local features, int64 [2]."""
        sizes = [self.block(index).num_bytes() for index in range(len(self))]
        return np.sum([(0, 0), *sizes], axis=0)

    def _open(self, index: int) -> Block:
        start, stop = self._bounds[index]
        path = self.path / self._names[index]
        return Block(path, self.ids[start:stop], self.manifest)
