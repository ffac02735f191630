"""File names for image ids, and the index that goes with a folder of exported features."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from delf_tf import artifacts
from delf_tf.checks import invalid, require
from delf_tf.features.blocks import ImageFeatures
from delf_tf.features.store import FeatureStore

INDEX_NAME = "delf_tf.json"
_FORMAT = "delf_tf exported features"
_MAX_INDEX_BYTES = 4 << 30
_UNSAFE = re.compile(r"[\\\x00-\x1f\x7f]")
_QUOTED = re.compile(r"[\\\x00-\x1f\x7f%]")
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"}


@dataclasses.dataclass(frozen=True)
class Source:
    """Features in another format, ready to be imported.

    Attributes:
      ids: of the images.
      read: id -> features; raises InputError for an image that cannot be read.
      fingerprint: of what made them, or None if the format does not record it.
    """

    ids: Sequence[str]
    read: Callable[[str], ImageFeatures]
    fingerprint: str | None = None


def require_relative(name: str) -> str:
    """Returns `name` if it is a path that stays below the folder it is taken in.

    Raises:
      InputError: it is absolute, climbs, or has empty or dot parts.
    """
    parts = name.split("/")
    safe = all(part not in ("", ".", "..") for part in parts) and "\\" not in name
    require(
        safe and "\0" not in name,
        "An id that names a file must be a relative path without '..', '.', '\\' or empty parts.",
        id=name,
    )
    return name


def file_stems(ids: Sequence[str]) -> dict[str, str]:
    """Returns a file name without ending for each id: the original's, or the id where they clash.

    "folder/a.jpg" becomes "folder/a", unless two ids would share a name: then all keep their own.
    If an id holds a backslash or a control character, as names do whose bytes are not UTF-8, these
    and "%" are written %XX in all names.

    Raises:
      InputError: an id that is no relative path.
    """
    names = list(ids)
    if any(_UNSAFE.search(one) for one in ids):
        names = [_QUOTED.sub(lambda found: f"%{ord(found.group()):02X}", one) for one in ids]
    for one in names:
        require_relative(one)
    stems = [_stem(one) for one in names]
    folded = {stem.casefold() for stem in stems}
    return dict(zip(ids, stems if len(folded) == len(stems) else names))


def unit(vector: np.ndarray) -> np.ndarray:
    """Returns a vector of L2 norm 1: the given one if its norm is 1 to 1e-3, else scaled.

    A vector of zeros stays, for `ImageFeatures` to refuse.
    """
    norm = float(np.linalg.norm(vector))
    return vector if norm == 0 or abs(norm - 1) <= 1e-3 else vector / norm


def write_index(folder: Path, store: FeatureStore, stems: dict[str, str], **more: Any) -> Path:
    """Writes the folder's index; it comes last and so marks the export as complete."""
    content = {"format": _FORMAT, "fingerprint": store.fingerprint, **more, "files": stems}
    return artifacts.write_text(folder / INDEX_NAME, json.dumps(content, indent=1) + "\n")


def read_index(folder: Path, suffixes: Sequence[str]) -> dict[str, Any]:
    """Returns the folder's index; for a folder without one, made by others, an index of its files.

    Args:
      folder: of the features.
      suffixes: endings of the files that count, for a folder without index.

    Returns:
      {"files": {id: stem}, ...}; without index an id is the file's path without its ending.

    Raises:
      InputError: no such folder, or an index that cannot be understood.
    """
    require(folder.is_dir(), "There must be a folder of features.", path=folder)
    path = folder / INDEX_NAME
    if not path.is_file():
        found = {
            file.relative_to(folder).as_posix()[: -len(suffix)]
            for suffix in suffixes
            for file in folder.rglob(f"*{suffix}")
        }
        return {"files": {stem: stem for stem in sorted(found)}}
    try:
        require(path.stat().st_size <= _MAX_INDEX_BYTES, "The index must not be that long.")
        index = json.loads(path.read_bytes())
        good = index["format"] == _FORMAT and isinstance(index["fingerprint"], str)
        good = good and all(isinstance(stem, str) for stem in index["files"].values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        good = False
    if not good:
        raise invalid("The folder's index must be as delf_tf wrote it.", path=path)
    for stem in index["files"].values():
        require_relative(stem)
    return index


def _stem(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return name[: -len(suffix)] if suffix.lower() in _IMAGE_SUFFIXES else name
