"""The SfM-120k training set (Radenović et al., TPAMI 2018): images in clusters, matching pairs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf import safe_pickle
from delf_tf.checks import InputError, as_array, require, require_choice
from delf_tf.safe_pickle import StrPath

SPLITS = ("train", "val")
_MAX_PICKLE_BYTES = 1 << 28
_IMAGE_ID = re.compile(r"[0-9A-Za-z_-]{6,255}")


@dataclasses.dataclass(frozen=True, eq=False)
class SfmSplit:
    """Training or validation part.

    Attributes:
      image_ids: N ids, hexadecimal.
      clusters: int64 [N], the 3-D model that an image belongs to. Images of different clusters
        are negatives of each other.
      query_rows: int64 [P], rows of `image_ids`.
      positive_rows: int64 [P], the image that matches the query of the same position.
    """

    image_ids: tuple[str, ...]
    clusters: np.ndarray
    query_rows: np.ndarray
    positive_rows: np.ndarray


def image_path(images_dir: StrPath, image_id: str) -> Path:
    """Returns where the published archive keeps an image: under its last six digits, in pairs."""
    return Path(images_dir) / image_id[-2:] / image_id[-4:-2] / image_id[-6:-4] / image_id


def read_database(path: StrPath, split: str) -> SfmSplit:
    """Reads one part of retrieval-SfM-120k.pkl.

    Args:
      path: the pickle, read without running anything in it.
      split: "train" or "val".

    Raises:
      InputError: no such file, damaged, or its parts do not fit together.
    """
    require_choice("split", split, SPLITS)
    content = safe_pickle.load(path, max_bytes=_MAX_PICKLE_BYTES)
    try:
        return _parse(content, split)
    except InputError as fault:
        raise InputError(f"{fault} File: {path}") from None


def _parse(content: Any, split: str) -> SfmSplit:
    require(
        isinstance(content, Mapping) and isinstance(content.get(split), Mapping),
        f"A database of SfM-120k must be a dict with the dict {split}.",
        keys=list(content)[:10] if isinstance(content, Mapping) else type(content).__name__,
    )
    part = content[split]
    keys = ("cids", "cluster", "qidxs", "pidxs")
    require(
        all(key in part for key in keys),
        f"A part of SfM-120k must have {', '.join(keys)}.",
        keys=list(part)[:10],
    )
    ids = part["cids"]
    require(
        isinstance(ids, (list, tuple, np.ndarray))
        and all(isinstance(one, str) and _IMAGE_ID.fullmatch(one) for one in ids)
        and len(set(ids)) == len(ids),
        "cids must be different ids of at least six letters and digits.",
        type=type(ids).__name__,
    )
    clusters = _integers(part, "cluster")
    queries, positives = _integers(part, "qidxs"), _integers(part, "pidxs")
    require(
        len(clusters) == len(ids) and len(queries) == len(positives),
        "cluster must be as long as cids, and pidxs as long as qidxs.",
        lengths=[len(part[key]) for key in keys],
    )
    for name, rows in (("qidxs", queries), ("pidxs", positives)):
        require(
            bool(((rows >= 0) & (rows < len(ids))).all()),
            f"{name} must be rows of cids.",
            rows=rows,
        )
    return SfmSplit(tuple(str(one) for one in ids), clusters, queries, positives)


def _integers(part: Mapping[str, Any], name: str) -> np.ndarray:
    value = part[name]
    if isinstance(value, (list, tuple)):
        # The types are looked at first: nested lists could be shared a million times over.
        numeric = all(isinstance(one, (int, float, np.number)) for one in value)
        require(numeric, f"{name} must be a list of integers.")
        value = value or np.zeros(0)
    return as_array(name, value, ("N",), np.int64)
