"""Rankings as .npz files: query_ids [Q], database_ids [N], indices [Q, K], scores [Q, K]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, invalid, require
from delf_tf.npz import read_metadata, read_npz, write_npz
from delf_tf.types import Ranking

_LEFT_OUT = "left_out"
_HINT = "A ranking holds query_ids [Q], database_ids [N], indices [Q, K] and optionally scores."


def save_ranking(path: StrPath, ranking: Ranking, **metadata: Any) -> Path:
    """Writes a ranking atomically; equal rankings give equal bytes.

    Args:
      path: the .npz to write.
      ranking: what to write.
      **metadata: JSON-able facts to keep beside it, such as a fingerprint or whether queries were
        cropped; `load_ranking_metadata` gives them back.

    Returns:
      `path`.

    Raises:
      InputError: metadata that JSON cannot hold.
    """
    small = len(ranking.database_ids) <= np.iinfo(np.int32).max
    arrays = {
        "query_ids": np.array(ranking.query_ids, dtype=np.str_),
        "database_ids": np.array(ranking.database_ids, dtype=np.str_),
        "indices": ranking.indices.astype(np.int32 if small else np.int64),
        "scores": ranking.scores,
    }
    if ranking.left_out:
        metadata[_LEFT_OUT] = {one: list(own) for one, own in ranking.left_out.items()}
    return write_npz(path, arrays, metadata)


def load_ranking(path: StrPath) -> Ranking:
    """Reads a ranking, also one made elsewhere.

    Ids may be stored as text, UTF-8 bytes or integers. Without scores, the score of the result at
    0-based position p is −p.

    Raises:
      InputError: no such file, damaged, cut short, too large, names missing, Python objects inside,
        or contents that are no ranking (ids that repeat, rows outside the database).
    """
    arrays = read_npz(path, ("query_ids", "database_ids", "indices"), ("scores",), hint=_HINT)
    indices = arrays["indices"]
    require(indices.ndim == 2, "indices must have shape [Q, K].", indices=indices, path=Path(path))
    scores = arrays.get("scores")
    if scores is None:
        scores = np.broadcast_to(-np.arange(indices.shape[1], dtype=np.float32), indices.shape)
    elif scores.shape == indices.shape and scores.dtype.kind == "f":
        # Other programs leave NaN or -inf where there is no result; the value has no meaning there.
        scores = np.where(indices < 0, np.float32(0), scores)
    ids = {name: _text(name, arrays[name], path) for name in ("query_ids", "database_ids")}
    left_out = _left_out(path, set(ids["database_ids"]))
    return Ranking(ids["query_ids"], ids["database_ids"], indices, scores, left_out)


def load_ranking_metadata(path: StrPath) -> dict[str, Any]:
    """Returns the metadata that `save_ranking` wrote; empty for a ranking made elsewhere.

    Raises:
      InputError: as `load_ranking`.
    """
    return read_metadata(path)


def _left_out(path: StrPath, known: set[str]) -> dict[str, list[str]]:
    try:
        told = read_metadata(path).get(_LEFT_OUT, {})
    except InputError:  # Other programs may keep something else under that name.
        return {}
    fits = isinstance(told, dict) and all(
        isinstance(own, list) and all(isinstance(one, str) and one in known for one in own)
        for own in told.values()
    )
    require(fits, f"{_LEFT_OUT} must list images of the database.", path=Path(path))
    return told


def _text(name: str, ids: np.ndarray, path: StrPath) -> tuple[str, ...]:
    if ids.ndim == 1 and ids.dtype.kind == "S":
        try:
            return tuple(raw.decode("utf-8") for raw in ids.tolist())
        except UnicodeDecodeError:
            raise invalid(f"{name} must be UTF-8.", path=Path(path)) from None
    fits = ids.ndim == 1 and ids.dtype.kind in "Uiu"
    if not fits:
        raise invalid(f"{name} must be a list of ids.", ids=ids, path=Path(path))
    return tuple(str(one) for one in ids.tolist())
