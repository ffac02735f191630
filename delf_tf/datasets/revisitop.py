"""The revisited Oxford and Paris benchmarks (Radenović et al., CVPR 2018)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from delf_tf import safe_pickle
from delf_tf.checks import InputError, as_array, require, require_choice
from delf_tf.datasets.mat_file import read_mat
from delf_tf.safe_pickle import StrPath
from delf_tf.types import Box, GroundTruth, ImageRef

# What each protocol counts as positive and as junk (section 3.2 of the paper).
PROTOCOLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
_MAX_PICKLE_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True, eq=False)
class RevisitopGroundTruth:
    """A benchmark's queries, database, and how the one's images relate to the other's.

    Attributes:
      query_ids: Q file names without extension.
      database_ids: file names without extension.
      query_boxes: Q boxes (y0, x0, y1, x1) in pixels; queries are to be cropped to them.
      easy, hard, junk: Q int64 arrays each, rows of `database_ids`.
    """

    query_ids: tuple[str, ...]
    database_ids: tuple[str, ...]
    query_boxes: tuple[Box, ...]
    easy: tuple[np.ndarray, ...]
    hard: tuple[np.ndarray, ...]
    junk: tuple[np.ndarray, ...]

    def ground_truth(self, protocol: str) -> GroundTruth:
        """Returns what a ranking is scored against.

        Args:
          protocol: "easy", "medium" or "hard".

        Raises:
          InputError: another protocol.
        """
        require_choice("protocol", protocol, PROTOCOLS)
        joined = (
            tuple(np.concatenate(rows) for rows in zip(*(getattr(self, part) for part in parts)))
            for parts in PROTOCOLS[protocol]
        )
        return GroundTruth(*joined)

    def image_refs(self, images_dir: StrPath) -> tuple[list[ImageRef], list[ImageRef]]:
        """Names the image files.

        Args:
          images_dir: the folder that holds the images of both kinds, ID.jpg.

        Returns:
          (queries, database), in the order of the ids. Queries carry their boxes, as the
          benchmark prescribes; uncropped figures are higher and not comparable.
        """
        folder = Path(images_dir)
        queries = [
            ImageRef(one, folder / f"{one}.jpg", box)
            for one, box in zip(self.query_ids, self.query_boxes)
        ]
        return queries, [ImageRef(one, folder / f"{one}.jpg") for one in self.database_ids]

    def with_distractors(self, ids: Sequence[str]) -> RevisitopGroundTruth:
        """Returns the benchmark with further database images that show none of the queries.

        Args:
          ids: of the distractors, such as the million of R1M; none may be of the database.
        """
        return dataclasses.replace(
            self, database_ids=_unique_ids("distractors", [*self.database_ids, *ids])
        )


def read_ground_truth(path: StrPath) -> RevisitopGroundTruth:
    """Reads gnd_roxford5k, gnd_rparis6k or another file of their form.

    Args:
      path: the .pkl file as published (rows from 0), or a .mat file as the original DELF's tools
        take it (rows from 1).

    Raises:
      InputError: no such file, another extension, damaged, or rows and boxes that do not fit.
    """
    path = Path(path)
    require_choice("The extension of a ground truth file", path.suffix.lower(), (".pkl", ".mat"))
    is_mat = path.suffix.lower() == ".mat"
    content = read_mat(path) if is_mat else safe_pickle.load(path, max_bytes=_MAX_PICKLE_BYTES)
    try:
        return _parse(content, first_row=int(is_mat))
    except InputError as fault:
        raise InputError(f"{fault} File: {path}") from None


def _parse(content: Any, first_row: int) -> RevisitopGroundTruth:
    keys = ("gnd", "imlist", "qimlist")
    require(
        isinstance(content, Mapping) and all(key in content for key in keys),
        "A ground truth must be a dict with gnd, imlist and qimlist.",
        keys=list(content)[:10] if isinstance(content, Mapping) else type(content).__name__,
    )
    database_ids = _unique_ids("imlist", content["imlist"])
    query_ids = _unique_ids("qimlist", content["qimlist"])
    entries = content["gnd"]
    require(isinstance(entries, (list, tuple)), "A ground truth's gnd must be a list.")
    # In a .mat file an entry is a structure array, of one element in a cell array of them.
    entries = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in entries]
    require(
        len(entries) == len(query_ids) and all(isinstance(entry, Mapping) for entry in entries),
        "A ground truth's gnd must have one dict a query.",
        num_entries=len(entries),
        num_queries=len(query_ids),
    )
    rows = {
        part: tuple(_rows(entry, part, first_row, len(database_ids)) for entry in entries)
        for part in ("easy", "hard", "junk")
    }
    boxes = tuple(_box(entry) for entry in entries)
    return RevisitopGroundTruth(query_ids, database_ids, boxes, **rows)


def _rows(entry: Mapping[str, Any], part: str, first_row: int, num_images: int) -> np.ndarray:
    require(part in entry, f"A query's ground truth must have {part}.", keys=list(entry)[:10])
    value = entry[part]
    value = np.zeros(0) if isinstance(value, (list, tuple)) and not value else value
    rows = as_array(part, np.atleast_1d(value), ("N",), np.int64) - first_row
    require(
        bool(((rows >= 0) & (rows < num_images)).all()) and len(np.unique(rows)) == len(rows),
        f"A query's {part} must be different rows of imlist, 0 to {num_images - 1}.",
        rows=rows[:5] if len(rows) > 5 else rows.tolist(),
    )
    return rows


def _box(entry: Mapping[str, Any]) -> Box:
    require("bbx" in entry, "A query's ground truth must have bbx.", keys=list(entry)[:10])
    x0, y0, x1, y1 = (float(edge) for edge in as_array("bbx", entry["bbx"], (4,), np.float64))
    require(x0 < x1 and y0 < y1, "A query's bbx must be (x1, y1, x2, y2).", bbx=(x0, y0, x1, y1))
    return y0, x0, y1, x1


def _unique_ids(name: str, ids: Any) -> tuple[str, ...]:
    require(
        isinstance(ids, (list, tuple, np.ndarray)) and all(isinstance(one, str) for one in ids),
        f"{name} must be a list of names.",
        type=type(ids).__name__,
    )
    names = tuple(str(one) for one in ids)
    require(
        len(set(names)) == len(names),
        f"{name} must name an image once.",
        num_names=len(names),
        num_different=len(set(names)),
    )
    # The names become paths: one from a hostile file must not lead out of the images' folder.
    for one in names:
        parts = PurePosixPath(one).parts
        inside = bool(parts) and ".." not in parts and parts[0] != "/" and "\0" not in one
        require(inside, f"{name} must hold names below the images' folder.", image=one[:100])
    return names
