"""Builds an index of local features; a killed build goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, require
from delf_tf.progress import Progress
from delf_tf.retrieval.local_index import LocalFeatureIndex

SAVE_INTERVAL_S = 300.0
_PARTIAL = ".partial"


def build(
    path: StrPath,
    empty: LocalFeatureIndex,
    ids: Sequence[str],
    read: Callable[[str], np.ndarray],
    *,
    save_interval_s: float = SAVE_INTERVAL_S,
) -> Path:
    """Adds images to an index and writes it; what was done is kept when the run is killed.

    Beside `path` a file with ".partial" added to its name holds what is done; it is used only if it
    is whole, of the same fingerprint and of the first of the same ids, and goes when `path` is
    written. Killed or not, the bytes of `path` are the same.

    Args:
      path: of the index.
      empty: the index to fill, without images.
      ids: the images in order of adding; all of them, those done by an earlier run as well.
      read: gives the descriptors [N, D] of an image; called once for each that is not done.
      save_interval_s: seconds between saves of what is done.

    Returns:
      `path`.

    Raises:
      InputError: an image that the index refuses.
    """
    path = Path(path)
    require(not empty.ids, "The index to fill must be empty.", num_images=len(empty.ids))
    partial = path.with_name(path.name + _PARTIAL)
    index = _resumed(partial, empty, ids)
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


def _resumed(partial: Path, empty: LocalFeatureIndex, ids: Sequence[str]) -> LocalFeatureIndex:
    if not partial.exists():
        return empty
    try:
        index = type(empty).load(partial, empty.fingerprint)
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
