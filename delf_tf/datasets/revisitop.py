"""The revisited Oxford and Paris benchmarks (Radenović et al., CVPR 2018)."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import scipy.io

from delf_tf import safe_pickle
from delf_tf.checks import InputError, as_array, invalid, require, require_choice
from delf_tf.safe_pickle import StrPath
from delf_tf.types import Box, GroundTruth, ImageRef

# What each protocol counts as positive and as junk (section 3.2 of the paper).
PROTOCOLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
_MAX_PICKLE_BYTES = 1 << 28
_MAX_MAT_BYTES = 1 << 26


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

    def image_refs(
        self, images_dir: StrPath, *, crop_queries: bool = True, extension: str = ".jpg"
    ) -> tuple[list[ImageRef], list[ImageRef]]:
        """Names the image files.

        Args:
          images_dir: the folder that holds the images of both kinds.
          crop_queries: whether queries carry their boxes, as the benchmark prescribes; uncropped
            figures are higher and not comparable.
          extension: of the files.

        Returns:
          (queries, database), in the order of the ids.
        """
        folder = Path(images_dir)
        queries = [
            ImageRef(one, folder / f"{one}{extension}", box if crop_queries else None)
            for one, box in zip(self.query_ids, self.query_boxes)
        ]
        return queries, [ImageRef(one, folder / f"{one}{extension}") for one in self.database_ids]

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
    content = _load_mat(path) if is_mat else safe_pickle.load(path, max_bytes=_MAX_PICKLE_BYTES)
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
    # A .mat file of one query holds its entry without a list around it.
    entries = [entries] if isinstance(entries, Mapping) else list(entries)
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
    ids = [ids] if isinstance(ids, str) else ids
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


def _load_mat(path: Path) -> Any:
    require(path.is_file(), "A ground truth file must exist.", path=path)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_MAT_BYTES + 1)
        _check_inflated_size(data)
        return scipy.io.loadmat(
            str(path), simplify_cells=True, variable_names=["gnd", "imlist", "qimlist"]
        )
    except InputError:
        raise
    except Exception as fault:  # What damaged bytes do to SciPy's parser is open-ended.
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:150]
        hint = "Version 7.3 files are not read: save with -v7." if "HDF" in reason else ""
        raise invalid(
            "A .mat file must be whole and valid.", hint=hint, path=path, reason=reason
        ) from None


def _check_inflated_size(data: bytes) -> None:
    """Refuses a file whose compressed elements (type 15 of format 5) grow without measure."""
    total, at = len(data), 128
    while at + 8 <= len(data) and total <= _MAX_MAT_BYTES:
        order = "little" if data[126:128] == b"IM" else "big"
        kind = int.from_bytes(data[at : at + 4], order)
        size = int.from_bytes(data[at + 4 : at + 8], order)
        if kind == 15:
            body = data[at + 8 : at + 8 + size]
            total += len(zlib.decompressobj().decompress(body, _MAX_MAT_BYTES + 1))
        at += 8 + size
    require(
        total <= _MAX_MAT_BYTES,
        f"A .mat file of ground truth must hold at most {_MAX_MAT_BYTES} bytes.",
        num_bytes=total,
    )
