"""Any folder of images, with or without a table of which image shows which place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from delf_tf.checks import InputError, invalid, require
from delf_tf.datasets.tables import StrPath, malformed, read_rows
from delf_tf.types import GroundTruth, ImageRef

IMAGE_EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


def list_images(directory: StrPath) -> list[ImageRef]:
    r"""Lists the images in a folder and the folders below it.

    A file counts by its extension, in any case: bmp, gif, jpeg, jpg, png, webp; whether it can be
    read is not looked at. Names that begin with a dot are passed over. Links to folders are
    followed to each folder once, and never to one that the tree holds anyway.

    Args:
      directory: the folder.

    Returns:
      References sorted by id; an id is the path below the folder, with forward slashes. Bytes of
      a name that are not UTF-8 appear in the id as \xNN.

    Raises:
      InputError: the folder is missing, unreadable, or holds no image.
    """
    root = Path(directory)
    require(root.is_dir(), "A folder of images must exist.", directory=root)
    refs = [ImageRef(_id(path.relative_to(root)), path) for path in _image_paths(root)]
    require(
        bool(refs),
        "A folder of images must hold at least one.",
        hint=f"These extensions count: {', '.join(IMAGE_EXTENSIONS)}.",
        directory=root,
    )
    return sorted(refs, key=lambda ref: ref.id)


def read_labels(path: StrPath) -> dict[str, str]:
    """Reads which image shows which place.

    Args:
      path: a CSV file with at least the columns image (an id of `list_images`, or the end of one
        from a slash on, such as the file's name) and place (empty for a distractor, which shows
        none of the places).

    Returns:
      The place by image id, in the file's order.

    Raises:
      InputError: see `tables.read_rows`; an image is named twice or not at all, or none is there.
    """
    labels: dict[str, str] = {}
    for line, (image, place) in read_rows(path, ("image", "place")):
        if not image or image in labels:
            reason = f"image {image!r} for the second time" if image else "no image"
            raise malformed(path, line, reason)
        labels[image] = place.strip()
    require(bool(labels), "A table of labels must name at least one image.", path=path)
    return labels


def places(ids: Sequence[str], labels: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the place of each of `ids`; "" for distractors and images without a label.

    An id takes the label of its own name, or of the longest end of its path that has one, so that
    labels may name images relative to a folder inside the one that was searched.

    Raises:
      InputError: there are ids, but not one of them has a label; or a label that is the end of
        several ids.
    """
    names = [_labelled_name(one, labels) for one in ids]
    _require_one_image_a_label(ids, names)
    missing = [one for one, name in zip(ids, names) if name is None]
    if ids and len(missing) == len(ids):
        raise invalid(
            "Labels must be of these images.",
            hint="Name images as paths below the folder that was searched, with forward slashes.",
            images=missing[:3],
            labels=list(labels)[:3],
        )
    if missing:
        logging.warning(
            "%d of %d images have no label and count as distractors, e.g. %s.",
            len(missing),
            len(ids),
            ", ".join(missing[:3]),
        )
    return tuple("" if name is None else labels[name] for name in names)


def _labelled_name(one: str, labels: Mapping[str, str]) -> str | None:
    while one not in labels:
        _, slash, one = one.partition("/")
        if not slash:
            return None
    return one


def _require_one_image_a_label(ids: Sequence[str], names: Sequence[str | None]) -> None:
    first: dict[str, str] = {}
    for one, name in zip(ids, names):
        if name is not None and first.setdefault(name, one) != one:
            raise invalid(
                "A label must name one image.",
                hint="Name images as paths below the folder that was searched.",
                label=name,
                images=[first[name], one],
            )


def labelled_queries(ids: Sequence[str], labels: Mapping[str, str]) -> list[str]:
    """Returns those of `ids` that have a place of which another of them is an image too."""
    of_place: dict[str, int] = {}
    shown = places(ids, labels)
    for place in shown:
        of_place[place] = of_place.get(place, 0) + 1
    return [one for one, place in zip(ids, shown) if place and of_place[place] > 1]


def ground_truth(
    query_ids: Sequence[str],
    database_ids: Sequence[str],
    labels: Mapping[str, str],
    left_out: Mapping[str, Sequence[str]] | None = None,
) -> GroundTruth:
    """Makes the ground truth of labelled images.

    Positives are the database's other images of the query's place; junk is the query itself, if
    the database holds it, under its own id or those of `left_out`. Images without a label count as
    distractors.

    Args:
      query_ids: Q ids.
      database_ids: unique ids.
      labels: from `read_labels`.
      left_out: see Ranking.

    Returns:
      The rows of `database_ids`, ascending; a query without a place has no positives.

    Raises:
      InputError: not one of the queries, or of the database, has a label.
    """
    rows_of_place: dict[str, list[int]] = {}
    for row, place in enumerate(places(database_ids, labels)):
        if place:
            rows_of_place.setdefault(place, []).append(row)
    row_of = {one: row for row, one in enumerate(database_ids)}
    positives, junk = [], []
    for query, place in zip(query_ids, places(query_ids, labels)):
        selves = (query, *(left_out or {}).get(query, ()))
        own = sorted({row_of[one] for one in selves if one in row_of})
        rows = [row for row in rows_of_place.get(place, []) if row not in own]
        positives.append(np.array(rows, np.int64))
        junk.append(np.array(own, np.int64))
    return GroundTruth(tuple(positives), tuple(junk))


def _image_paths(root: Path) -> Iterator[Path]:
    """Walks the real tree first, then what links lead to; each folder once."""
    seen: set[tuple[int, int]] = set()
    to_visit, links = [root], []
    while to_visit or links:
        folder = to_visit.pop() if to_visit else links.pop()
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in _entries(folder):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                to_visit.append(path)
            elif path.is_dir():
                links.append(path)
            elif path.suffix.lower() in IMAGE_EXTENSIONS:
                yield path


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Returns what is not hidden, last name first, for it goes on a stack."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as fault:
        raise InputError(f"A folder of images must be readable. {fault}") from None
    return sorted(shown, key=lambda entry: entry.name, reverse=True)


def _id(relative: Path) -> str:
    raw = relative.as_posix().encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace")
