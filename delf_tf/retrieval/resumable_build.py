"""Builds an index of local features; a killed build goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from absl import logging

from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, require, require_absent
from delf_tf.progress import Progress

SAVE_INTERVAL_S = 300.0
_PARTIAL = ".partial"


class LocalFeatureIndex(Protocol):
    """What `AsmkIndex` and `LocalIndex` have in common."""

    fingerprint: str
    contents: dict[str, str]

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the images in it, in order of adding."""

    def add(self, image_id: str, descriptors: np.ndarray) -> None:
        """Adds an image's descriptors [N, D]."""

    def save(self, path: StrPath) -> Path:
        """Writes the index atomically."""


I = TypeVar("I", bound=LocalFeatureIndex)  # noqa: E741


def build(
    path: StrPath,
    empty: I,
    load: Callable[[StrPath, str], I],
    ids: Sequence[str],
    read: Callable[[str], np.ndarray],
    *,
    overwrite: bool = False,
    save_interval_s: float = SAVE_INTERVAL_S,
) -> Path:
    """Adds images to an index and writes it; what was done is kept when the run is killed.

    Beside `path` a file with ".partial" added to its name holds what is done; it is used only if it
    is whole, of the same fingerprint and of the first of the same ids, and goes when `path` is
    written. Killed or not, the bytes of `path` are the same.

    Args:
      path: of the index.
      empty: the index to fill, without images.
      load: `type(empty).load`.
      ids: the images in order of adding; all of them, those done by an earlier run as well.
      read: gives the descriptors [N, D] of an image; called once for each that is not done.
      overwrite: replace an index at `path`.
      save_interval_s: seconds between saves of what is done.

    Returns:
      `path`.

    Raises:
      InputError: an index at `path` and not `overwrite`, or an image that the index refuses.
    """
    path = Path(path)
    require_absent("The index", path, overwrite)
    require(not empty.ids, "The index to fill must be empty.", num_images=len(empty.ids))
    partial = path.with_name(path.name + _PARTIAL)
    index = _resumed(partial, empty, load, ids)
    done = len(index.ids)
    last_save = time.monotonic()
    with Progress(len(ids), "images", f"index {path.name}", done=done) as progress:
        for image_id in ids[done:]:
            index.add(image_id, read(image_id))
            progress.update()
            if time.monotonic() - last_save >= save_interval_s:
                index.save(partial)
                last_save = time.monotonic()
    index.save(path)
    partial.unlink(missing_ok=True)
    return path


def _resumed(partial: Path, empty: I, load: Callable[[StrPath, str], I], ids: Sequence[str]) -> I:
    if not partial.exists():
        return empty
    try:
        index = load(partial, empty.fingerprint)
        require(
            index.ids == tuple(ids[: len(index.ids)]),
            "The partial index must hold the first images of the list.",
            path=partial,
        )
        told = {one: empty.contents[one] for one in index.ids if one in empty.contents}
        require(index.contents == told, "The images must be those of before.", path=partial)
        index.contents = empty.contents
    except InputError as error:
        logging.warning("The index is built from the start: %s", error)
        return empty
    logging.info("%d of %d images are in the index already.", len(index.ids), len(ids))
    return index
