"""Writes one shard of a feature store, block by block, each block whole."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from absl import logging

from delf_tf import artifacts
from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, invalid, require
from delf_tf.features import manifest
from delf_tf.features.blocks import Block, ImageFeatures, Row, encode_row, write_block
from delf_tf.features.disk import FileLock, explained
from delf_tf.features.sources import Source


def writer(path: StrPath, shard: int = 0, num_shards: int = 1) -> ShardWriter:
    """Opens one shard of the store at `path` for writing.

    Args:
      path: folder of a store that was created.
      shard: in 0..num_shards - 1.
      num_shards: as the store was created with.

    Raises:
      InputError: no store there, another number of shards, or the shard has a live writer.
    """
    return ShardWriter(Path(path), shard, num_shards)


class ShardWriter:
    """Writes the blocks of one shard; a context manager that holds the shard's lock.

    Each block is final once written: a run that is killed repeats one block, and the files are the
    same bytes as those of a run that was not.

    Attributes:
      num_images: images of the shard, done or not.
    """

    def __init__(self, folder: Path, shard: int, num_shards: int):
        """Takes the shard's lock; see `writer`."""
        self._folder, self._shard = folder, shard
        self._manifest = manifest.read_manifest(folder)
        require(
            num_shards == self._manifest.num_shards,
            f"num_shards must be {self._manifest.num_shards}, as the store was created.",
            hint="Give every shard's process the same number, or overwrite the store.",
            num_shards=num_shards,
        )
        require(0 <= shard < num_shards, f"shard must lie in 0..{num_shards - 1}.", shard=shard)
        ids = manifest.read_ids(folder, self._manifest)
        self._blocks = {
            number: ids[start:stop] for number, start, stop in self._manifest.blocks(shard)
        }
        self.num_images = sum(map(len, self._blocks.values()))
        with explained(folder):
            prefix = f".{manifest.shard_prefix(shard, num_shards)}"
            self._lock = take_lock(folder / f"{prefix}.lock")
            for stale in folder.glob(f"{prefix}-*.tmp"):
                stale.unlink(missing_ok=True)

    def pending(
        self,
        *,
        retry_failures: bool = True,
        verify: bool = True,
        among: Collection[str] | None = None,
    ) -> list[tuple[int, tuple[str, ...]]]:
        """Returns what is left to do: (block number, ids to compute) in order.

        A block that is missing or damaged wants all its ids; one that is whole but lists failures
        wants those alone.

        Args:
          retry_failures: whether images that failed before are to be tried again.
          verify: whether every byte of the finished blocks is checked, or only their headers.
          among: ids that can be computed; a block that wants others as well is left out if it must
            be written whole. None: all can.
        """
        work = []
        for number, ids in self._blocks.items():
            block = self._finished(number, verify=verify)
            wanted = ids if block is None else tuple(one for one in ids if one in block.failures)
            mine = tuple(one for one in wanted if among is None or one in among)
            if mine and (mine == ids if block is None else retry_failures):
                work.append((number, mine))
        return work

    def write(
        self,
        block: int,
        ids: Sequence[str],
        features: Sequence[ImageFeatures | None],
        failures: Mapping[str, str],
        sources: Mapping[str, Source] | None = None,
    ) -> Path:
        """Writes one block, whole and synced, and returns its path.

        Args:
          block: number from `pending`.
          ids: as `pending` gave them with it.
          features: one an id; None for an image in `failures`.
          failures: id -> why it has no features, one line.
          sources: id -> which file the features were made from, where that is known.

        Raises:
          InputError: ids of another block, features that do not fit the store, or a full disk;
            the block is then as it was before.
        """
        all_ids = self._require_ids(block, ids, features, failures)
        rows: dict[str, Row | None] = {
            one: None if given is None else encode_row(one, given, self._manifest)
            for one, given in zip(ids, features)
        }
        reasons = {one: " ".join(str(failures[one]).split()) for one in ids if one in failures}
        known = {one: sources[one] for one in ids if sources and one in sources}
        if len(rows) < len(all_ids):
            self._keep_finished(block, rows, reasons, known)
        return self.write_rows(block, rows, reasons, known)

    def write_rows(
        self,
        block: int,
        rows: Mapping[str, Row | None],
        failures: Mapping[str, str],
        sources: Mapping[str, Source],
    ) -> Path:
        """Writes one block of encoded rows, whole and synced, and returns its path.

        Args:
          block: number from `pending`.
          rows: of all the block's images by id; None for those in `failures`.
          failures: id -> why it has no features, one line.
          sources: id -> which file the features were made from, where that is known.

        Raises:
          InputError: a full disk; the block is then as it was before.
        """
        all_ids, path = self._blocks[block], self._path(block)
        with explained(self._folder), artifacts.atomic_write(path) as file:
            write_block(
                file,
                all_ids,
                [rows[one] for one in all_ids],
                failures=failures,
                manifest=self._manifest,
                sources=sources,
            )
        return path

    def close(self) -> None:
        """Gives the shard's lock back."""
        self._lock.release()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _path(self, number: int) -> Path:
        return self._folder / self._manifest.block_name(self._shard, number)

    def _finished(self, number: int, *, verify: bool) -> Block | None:
        path = self._path(number)
        if not path.exists():
            return None
        try:
            block = Block(path, self._blocks[number], self._manifest)
            if verify:
                block.verify()
        except InputError as error:
            logging.warning("Block %s is made again: %s", path.name, error)
            return None
        return block

    def _require_ids(
        self,
        block: int,
        ids: Sequence[str],
        features: Sequence[ImageFeatures | None],
        failures: Mapping[str, str],
    ) -> tuple[str, ...]:
        require(block in self._blocks, "block must be one of the shard's.", block=block)
        known = set(self._blocks[block])
        require(
            len(set(ids)) == len(ids) == len(features) and known.issuperset(ids),
            "ids must be the block's, each once, with one entry of features each.",
            block=block,
            ids=len(ids),
            features=len(features),
        )
        without = {one for one, given in zip(ids, features) if given is None}
        require(
            without == set(failures),
            "failures must name exactly the ids whose features are None.",
            failures=sorted(failures)[:3],
            without_features=sorted(without)[:3],
        )
        return self._blocks[block]

    def _keep_finished(
        self,
        number: int,
        rows: dict[str, Row | None],
        reasons: dict[str, str],
        sources: dict[str, Source],
    ) -> None:
        finished = self._finished(number, verify=False)
        missing = [one for one in self._blocks[number] if one not in rows]
        known = finished.sources() if finished is not None else {}
        if finished is None:
            raise invalid("A block must be written whole the first time.", missing=missing[:3])
        for row, one in enumerate(self._blocks[number]):
            if one in rows:
                continue
            rows[one] = None if one in finished.failures else finished.read_row(row)
            if one in finished.failures:
                reasons[one] = finished.failures[one]
            if one in known:
                sources[one] = known[one]


def take_lock(path: Path) -> FileLock:
    """Returns a shard's lock.

    Raises:
      InputError: a live process holds it.
    """
    try:
        return FileLock(path, wait=False)
    except BlockingIOError:
        raise invalid(
            "A shard must have one writer at a time; another process is writing this one.",
            hint="Wait for it to end, or give each process a shard of its own.",
            lock=path,
        ) from None
