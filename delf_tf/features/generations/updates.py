"""Making a store follow a list of images: what is new is computed, what is gone is left out.

`open_store`, then `unfinished`: what an earlier run left over is computed first. Then `plan`
compares the list with the store and names the images that are to be computed, a generation of
their own; when its blocks are written, `publish` makes the new collection the store's. Until then
the store is as it was. A generation that was begun for a list that is no longer wanted is kept for
what it holds.
"""

from __future__ import annotations

import collections
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.features import creation, manifest, sources
from delf_tf.features.disk import explained, locked
from delf_tf.features.generations import collection
from delf_tf.features.generations.collection import Collection
from delf_tf.features.generations.generation import Facts, Generation
from delf_tf.features.sources import Source

Paths = Mapping[str, Path]


class Work(NamedTuple):
    """Images that a writer of this shard of this folder is to be given, as far as it wants them.

    Attributes:
      folder, shard, num_shards: of the writer.
      ids: of the images.
      verify: whether finished blocks are to be read to the end; `plan` reads the others'.
    """

    folder: Path
    shard: int
    num_shards: int
    ids: frozenset[str]
    verify: bool


class Update(NamedTuple):
    """A list of images beside what a store holds.

    Attributes:
      folder: of the store.
      before: the store's collection.
      after: the one that is wanted; without the rows of `to_compute` yet.
      to_compute: ids whose features the store does not hold.
      counts: number of images by what became of them.
    """

    folder: Path
    before: Collection
    after: dict[str, list[int] | None]
    to_compute: list[str]
    counts: dict[str, int]

    @property
    def generation(self) -> Path:
        """The folder that receives `to_compute`."""
        return self.folder / collection.next_name(self.before.generations)

    def __str__(self) -> str:
        told = {name: num for name, num in self.counts.items() if num or name == "kept"}
        return ", ".join(f"{num:,} {name}" for name, num in told.items())


def open_store(
    path: StrPath, ids: Sequence[str], *, overwrite: bool = False, **arguments: Any
) -> Path:
    """Makes an empty store for a list of images, or finds one there that can follow it.

    Args:
      path: folder of the store.
      ids: of the images.
      overwrite: see `creation.create`.
      **arguments: of `creation.create`.

    Raises:
      InputError: a store of other features lies there, or as `creation.create`.
    """
    folder = Path(path)
    if not overwrite and (folder / manifest.NAME).is_file():
        asked, _ = creation.describe(ids, **arguments)
        there = manifest.read_manifest(folder)
        if asked.ids_sha256 != there.ids_sha256 or (folder / collection.NAME).is_file():
            collection.require_same_features(asked, there, folder)
            return folder
    return creation.create(folder, ids, overwrite=overwrite, **arguments)


def unfinished(folder: Path, ids: Sequence[str], shard: int, num_shards: int) -> list[Work]:
    """Returns what may be left over of a store's list: blocks not written, images that failed.

    Args:
      folder: of the store.
      ids: all images of now, in order.
      shard: this process's share.
      num_shards: of all processes.
    """
    current, generations = _open(folder)
    if _never_changed(folder) and list(ids) == current.ids:
        return [Work(folder, shard, num_shards, frozenset(ids), True)]
    present = set(ids)
    wanted: list[set[str]] = [set() for _ in generations]
    for one, (number, position) in zip(current.ids, current.rows):
        if one in present and generations[number].ids[position] == one:
            wanted[number].add(one)
    return [
        Work(generation.path, part, generation.manifest.num_shards, frozenset(mine), False)
        for generation, mine in zip(generations, wanted)
        for part in range(shard, generation.manifest.num_shards, num_shards)
    ]


def absent(folder: Path) -> frozenset[str]:
    """Returns the ids of a store's list whose blocks are not written yet."""
    current, generations = _open(folder)
    places = [one.locate(np.arange(len(one.ids)))[0] for one in generations]
    return frozenset(
        one
        for one, (number, position) in zip(current.ids, current.rows)
        if places[number][position] < 0
    )


def plan(folder: Path, ids: Sequence[str], paths: Paths, new: Container[str] = ()) -> Update | None:
    """Compares a list of images with what a store holds.

    An image is the same if its file's size and time are, or else its content. One whose content the
    store holds under whatever name is not computed again.

    Args:
      folder: of the store.
      ids: of the images, unique, in order.
      paths: their files; one without is known by its id alone.
      new: ids that count as added though the store holds them: this run has computed them.

    Returns:
      The difference; None while blocks of this very list are still to be written, by others.
    """
    before, generations = _open(folder)
    known = _never_changed(folder) and list(ids) == before.ids
    if known and generations[0].missing:
        return None
    pool = _Pool(generations, verify=not known)
    old = {one: row for one, row in zip(before.ids, before.rows) if pool.holds(row)}
    contents = {one: pool.source(row) for one, row in old.items()}
    recorded = {one: contents[one] for one in ids if one in paths and contents.get(one)}
    changed, times = sources.find_changed(recorded, paths, sources.read_times(folder))
    replaced = set(changed)
    lost = collections.Counter(contents[one] for one in old.keys() - set(ids))
    counts = dict.fromkeys(("added", "changed", "moved", "removed", "kept"), 0)
    after: dict[str, list[int] | None] = {}
    for one in ids:
        if one in old and one not in replaced:
            after[one] = old[one]
            counts["added" if one in new else "kept"] += 1
            continue
        source, after[one] = pool.find(one, paths)
        moved = one not in old and source is not None and lost[source] > 0
        lost[source] -= int(moved)
        counts["changed" if one in old else "moved" if moved else "added"] += 1
    counts["removed"] = sum(max(0, num) for num in lost.values())
    with explained(folder):
        sources.replace_times(folder, times)
    to_compute = [one for one, row in after.items() if row is None]
    return Update(folder, before, after, to_compute, counts)


def begin(update: Update, *, num_shards: int, block_size: int) -> bool:
    """Makes the generation that receives what is to be computed, if it is not there yet.

    Returns:
      Whether it is there. If not, one that was begun for another list stood in its place: the
      store now holds what was computed of it, and the list must be compared again.

    Raises:
      InputError: the folder cannot be written.
    """
    content = manifest.read_manifest(update.folder)
    path = update.generation
    arguments = {**content.features(), "num_shards": num_shards, "block_size": block_size}
    wanted, _ = creation.describe(update.to_compute, **arguments)
    if (path / manifest.NAME).is_file() and manifest.read_manifest(path) != wanted:
        known = [*update.before.generations, path.name]
        _replace(update, Collection(known, update.before.ids, update.before.rows))
        return False
    creation.create(path, update.to_compute, **arguments)
    return True


def publish(update: Update) -> bool:
    """Makes the new collection the store's, if all of it is computed; returns whether it is.

    Raises:
      InputError: the store was changed meanwhile.
    """
    before = update.before
    names, rows = list(before.generations), dict(update.after)
    if update.to_compute:
        content = manifest.read_manifest(update.folder)
        made = collection.open_generation(update.folder, update.generation.name, content)
        if made.missing:
            return False
        rows.update({one: [len(names), place] for place, one in enumerate(update.to_compute)})
        names.append(update.generation.name)
    after = Collection(names, list(rows), [row for row in rows.values() if row is not None])
    if after != before:
        _replace(update, after)
    return True


def _replace(update: Update, after: Collection) -> None:
    with explained(update.folder), locked(update.folder / creation.LOCK):
        now = collection.read(update.folder)
        require(
            now in (update.before, after, None),
            "A store must be changed by one update at a time; another one has changed it.",
            hint="Run the same command again: what was computed is kept.",
            path=update.folder,
        )
        after.write(update.folder)


def _open(folder: Path) -> tuple[Collection, list[Generation]]:
    told, opened = collection.open_all(folder, manifest.read_manifest(folder))
    return told or collection.first(opened[0]), opened


def _never_changed(folder: Path) -> bool:
    return not (folder / collection.NAME).exists()


class _Pool:
    """All features that a store's whole blocks hold, by their images' content."""

    def __init__(self, generations: Sequence[Generation], *, verify: bool):
        self._generations = generations
        self._facts = [one.facts(verify=verify) for one in generations]
        self._rows: dict[Source, dict[str, list[int]]] = {}
        for number, (generation, facts) in enumerate(zip(generations, self._facts)):
            for position, one in enumerate(generation.ids):
                if one in facts.sources and one not in facts.failures:
                    same = self._rows.setdefault(facts.sources[one], {})
                    same.setdefault(one, [number, position])
        self._sizes = {source.num_bytes for source in self._rows}

    def holds(self, row: Sequence[int]) -> bool:
        """Whether a row's block is there and whole."""
        facts, stored = self._at(row)
        return stored in facts.ids

    def source(self, row: Sequence[int]) -> Source | None:
        """Returns what a row was made from; None if that is not known, or it failed."""
        facts, stored = self._at(row)
        return None if stored in facts.failures else facts.sources.get(stored)

    def find(self, name: str, paths: Paths) -> tuple[Source | None, list[int] | None]:
        """Returns the content of an image's file and a row made from the same, or None."""
        try:
            if name not in paths or sources.modified(paths[name])[0] not in self._sizes:
                return None, None
            source = sources.read_source(paths[name])
        except OSError:
            return None, None
        same = self._rows.get(source, {})
        # Its own name's first, as a run that starts anew would have it.
        return source, same.get(name) or next(iter(same.values()), None)

    def _at(self, row: Sequence[int]) -> tuple[Facts, str]:
        number, position = row
        return self._facts[number], self._generations[number].ids[position]
