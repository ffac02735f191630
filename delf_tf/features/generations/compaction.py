"""Rewriting a store that has changed: one generation of the images of now, and nothing else."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, require
from delf_tf.features import creation, manifest
from delf_tf.features.disk import explained, locked
from delf_tf.features.generations import collection
from delf_tf.features.generations.collection import Collection
from delf_tf.features.store import FeatureStore
from delf_tf.features.writer import take_lock, writer
from delf_tf.progress import track


def compact(path: StrPath) -> Path:
    """Deletes the features of images that are gone; those of the others keep their bytes.

    They are copied first: until the copy is whole, the store is as it was. A store that never
    changed is left alone; one whose compaction was killed goes on.

    Args:
      path: folder of a complete store, which nobody writes to.

    Returns:
      `path`.

    Raises:
      InputError: no store, one that is not complete or is being written, a full disk.
    """
    folder = Path(path)
    told = collection.read(folder)
    if told is None:
        return folder
    with explained(folder), locked(folder / creation.LOCK), ExitStack() as stack:
        for lock in folder.rglob(".block-*.lock"):
            stack.callback(take_lock(lock).release)
        alone = Collection(told.generations[-1:], told.ids, [[0, n] for n in range(len(told.ids))])
        if told != alone or told.generations == [collection.ROOT]:
            alone = alone._replace(generations=[collection.next_name(told.generations)])
            _copy(FeatureStore(folder), folder / alone.generations[0])
            alone.write(folder)
        _sweep(folder, alone)
    return folder


def _copy(store: FeatureStore, target: Path) -> None:
    """Writes a store's features of now to a folder of their own, or what is missing of them."""
    arguments = {**store.manifest.features(), "block_size": store.manifest.block_size}
    if (target / manifest.NAME).is_file():
        wanted, _ = creation.describe(store.all_ids(), **arguments)
        require(
            manifest.read_manifest(target) == wanted,
            "A store must not have an unfinished update when it is compacted.",
            hint="Finish the extraction first, all of its shards.",
            path=target,
        )
        if not _is_part_of(target, store):
            shutil.rmtree(target)
    creation.create(target, store.all_ids(), **arguments)
    failed = store.failed()
    with writer(target) as copy:
        pending = copy.pending(retry_failures=False)
        for block, ids in track(pending, len(pending), "blocks", f"Compacting {store.path}"):
            rows = {one: None if one in failed else store.read_row(one) for one in ids}
            reasons = {one: failed[one] for one in ids if one in failed}
            copy.write_rows(block, rows, reasons, store.sources_of(ids))


def _is_part_of(target: Path, store: FeatureStore) -> bool:
    """Tells whether what a killed compaction has copied is what the store holds now."""
    try:
        copied = FeatureStore(target, allow_incomplete=True)
        same_sources = dict(copied.sources()) == store.sources_of(copied.ids())
        return same_sources and copied.failed().items() <= store.failed().items()
    except InputError:  # A damaged block.
        return False


def _sweep(folder: Path, kept: Collection) -> None:
    for path in collection.generation_folders(folder):
        if path.name not in kept.generations:
            shutil.rmtree(path)
    for path in folder.glob("block-*-of-*.safetensors"):
        path.unlink()
