"""Which images a store that has changed holds now, and in which generation each of them lies.

A store is written once for one list of images. What comes later is a generation of its own, a
folder of blocks inside the store's, and collection.json tells the images of now, in order, and
where each one's features are. Features that it does not name are gone; `compact` deletes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from delf_tf import artifacts
from delf_tf.checks import invalid, require
from delf_tf.features import manifest
from delf_tf.features.generations.generation import Generation
from delf_tf.features.manifest import Manifest

NAME = "collection.json"
# The store's own folder, where the first generation lies.
ROOT = "."
_FORMAT = "delf_tf collection"
_VERSION = 1
_GENERATION = re.compile(r"generation-[0-9]{6}")
_MAX_BYTES = 8 << 30
# What generations of one store may differ in.
_OWN_FIELDS = ("num_images", "ids_sha256", "num_shards", "block_size")


class Collection(NamedTuple):
    """The content of collection.json.

    Attributes:
      generations: folders below the store's, in the order in which they were made.
      ids: the images of now, unique.
      rows: for each its place in `generations`, and its position among that one's ids.
    """

    generations: list[str]
    ids: list[str]
    rows: list[list[int]]

    def write(self, folder: Path) -> None:
        """Makes it the store's."""
        lines = [f"  {json.dumps(one)}: {json.dumps(part)}" for one, part in self._parts()]
        artifacts.write_text(folder / NAME, "{\n" + ",\n".join(lines) + "\n}\n")

    def _parts(self) -> list[tuple[str, Any]]:
        head = [("format", _FORMAT), ("format_version", _VERSION)]
        return [*head, *self._asdict().items()]


def read(folder: Path) -> Collection | None:
    """Reads the collection of a store; None if the store never changed.

    Raises:
      InputError: a file that cannot be understood.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    content = artifacts.read_json(path, f"A feature store's {NAME}", max_bytes=_MAX_BYTES)
    try:
        known = (content.pop("format"), content.pop("format_version")) == (_FORMAT, _VERSION)
        found = Collection(**content)
        manifest.ids_text(found.ids)
        fits = known and _is_consistent(found)
    except (AttributeError, KeyError, TypeError):
        fits = False
    if not fits:
        raise invalid(
            f"A feature store's {NAME} must be as delf_tf wrote it.",
            hint="Restore it from a copy, or make the store again (--overwrite).",
            path=path,
        )
    return found


def _is_consistent(found: Collection) -> bool:
    """Whether a stranger's collection names generations and positions only."""
    names = found.generations
    return (
        len(set(names)) == len(names)
        and all(one == ROOT or _GENERATION.fullmatch(one) for one in names)
        and len(found.rows) == len(found.ids)
        and all(
            len(row) == 2
            and all(type(one) is int for one in row)
            and 0 <= row[0] < len(names)
            and row[1] >= 0
            for row in found.rows
        )
    )


def first(generation: Generation) -> Collection:
    """Returns the collection of a store that never changed."""
    ids = list(generation.ids)
    return Collection([ROOT], ids, [[0, position] for position in range(len(ids))])


def open_generation(folder: Path, name: str, content: Manifest) -> Generation:
    """Opens a generation of the store whose manifest is `content`.

    Raises:
      InputError: none is there, or one of another store.
    """
    path = folder / name
    own = manifest.read_manifest(path)
    require_same_features(content, own, path)
    return Generation(path, own)


def open_all(folder: Path, content: Manifest) -> tuple[Collection | None, list[Generation]]:
    """Opens a store's collection, None if the store never changed, and its generations.

    Raises:
      InputError: a collection or a generation that is damaged, or another's.
    """
    told = read(folder)
    names = [ROOT] if told is None else told.generations
    return told, [open_generation(folder, name, content) for name in names]


def require_same_features(asked: Manifest, existing: Manifest, path: Path) -> None:
    """Requires features to be made and kept in the same way, of whichever images.

    Raises:
      InputError: naming what differs.
    """
    asked.require_same(existing, path, leave_out=_OWN_FIELDS)


def generation_folders(folder: Path) -> list[Path]:
    """Returns the folders of a store's generations, named by its collection or not."""
    return [one for one in folder.glob("generation-*") if _GENERATION.fullmatch(one.name)]


def next_name(names: Sequence[str]) -> str:
    """Returns the name of the generation that is to follow."""
    last = max((int(one[-6:]) for one in names if one != ROOT), default=0)
    require(last < 999_999, "A store must have fewer than a million generations; compact it.")
    return f"generation-{last + 1:06d}"
