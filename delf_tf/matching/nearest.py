"""Putative matches: nearest neighbours filtered by distance, ratio and mutuality."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from delf_tf.checks import as_array, require
from delf_tf.matching.kernels import neighbours
from delf_tf.threads import check_num_threads, run_parts
from delf_tf.types import LocalFeatures

Descriptors = np.ndarray | LocalFeatures
Neighbours = tuple[np.ndarray, np.ndarray, np.ndarray]

# Below this many multiplications a second thread costs more than it saves.
_MIN_THREADED_WORK = 4_000_000


@dataclasses.dataclass(frozen=True)
class MatchTests:
    """Which nearest neighbours become putative matches.

    Attributes:
      max_distance: keep pairs whose L2 distance is less; None keeps all.
      max_ratio: keep pairs whose distance is less than this times that of the second nearest
        database feature (Lowe, 2004); None keeps all.
      mutual: keep pairs that are each other's nearest.
    """

    max_distance: float | None = None
    max_ratio: float | None = None
    mutual: bool = True

    def __post_init__(self) -> None:
        for name in ("max_distance", "max_ratio"):
            value = getattr(self, name)
            require(
                value is None or (isinstance(value, (int, float)) and value > 0),
                f"{name} must be positive, or None for no limit.",
                **{name: value},
            )


@dataclasses.dataclass(frozen=True, eq=False)
class PackedQuery:
    """Query descriptors laid out for the product, once for any number of databases."""

    descriptors: np.ndarray
    offset: np.ndarray
    rows: np.ndarray


def match(
    query: Descriptors,
    database: Descriptors,
    *,
    max_distance: float | None = None,
    max_ratio: float | None = None,
    mutual: bool = True,
    num_threads: int | None = None,
) -> np.ndarray:
    """Returns putative matches between two images' descriptors by L2 distance.

    One blocked product gives the nearest neighbours of both directions; equal distances go to the
    smaller index, and the result does not depend on the number of threads.

    Args:
      query: [N, D] float32, float16 or whole numbers (quantised codes), or LocalFeatures.
      database: [M, D], likewise. Rows need not be normalised; distances are in the rows' units.
      max_distance: keep pairs whose distance is less. For L2-normalised rows distances lie in
        0..2; the original DELF used 0.8 to 1.0. None keeps all.
      max_ratio: keep pairs whose distance is less than this times that of the second nearest
        database row; with a single database row all pass. None keeps all.
      mutual: keep pairs that are each other's nearest; otherwise several query rows may share a
        database row.
      num_threads: None for all processors.

    Returns:
      int64 [M', 2], rows (query row, database row) by ascending query row.

    Raises:
      InputError: other widths, mixed whole and fractional descriptors, NaN, infinite, or a
        limit that is not positive.
    """
    tests = MatchTests(max_distance, max_ratio, mutual)
    threads = check_num_threads(num_threads)
    rows, others = _descriptors_of("query", query), _descriptors_of("database", database)
    require(
        (rows.dtype.kind == "f") == (others.dtype.kind == "f"),
        "Both images' descriptors must be fractional, or both whole-number codes.",
        query=rows,
        database=others,
    )
    return match_packed(pack_query(rows), others, tests, threads)[0]


def _descriptors_of(name: str, features: Descriptors) -> np.ndarray:
    """Returns checked descriptors [N, D]; float32, float16, uint8 and int8 are not copied."""
    if isinstance(features, LocalFeatures):
        return features.descriptors
    dtype = getattr(features, "dtype", None)
    keep = dtype if dtype in (np.float16, np.uint8, np.int8) else np.float32
    return as_array(f"{name} descriptors", features, ("N", "D"), keep)


def pack_query(descriptors: np.ndarray) -> PackedQuery:
    """Returns `descriptors` [N, D] laid out for `match_packed`."""
    descriptors = _compilable(descriptors)
    offset = neighbours.offset_of(descriptors)
    return PackedQuery(descriptors, offset, neighbours.pack_rows(descriptors, offset))


def match_packed(
    query: PackedQuery, database: np.ndarray, tests: MatchTests, num_threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Returns matches int64 [M, 2] and their distances float32 [M]; see `match`."""
    descriptors, database = query.descriptors, _compilable(database)
    require(
        descriptors.shape[1] == database.shape[1] or not len(descriptors) or not len(database),
        "Both images' descriptors must have the same width.",
        hint="Were they extracted with the same model?",
        query=descriptors,
        database=database,
    )
    if not len(descriptors) or not len(database) or not database.shape[1]:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    panels = neighbours.pack_panels(database, query.offset)
    with_second = tests.max_ratio is not None
    nearest, second, back = _scan(query.rows, panels, with_second, num_threads)
    return neighbours.select(
        descriptors,
        database,
        nearest,
        second,
        back if tests.mutual else back[:0],
        math.inf if tests.max_distance is None else float(tests.max_distance),
        math.inf if tests.max_ratio is None else float(tests.max_ratio),
    )


def _scan(rows: np.ndarray, panels: np.ndarray, with_second: bool, num_threads: int) -> Neighbours:
    """Returns each row's nearest column, its score for the second, each column's nearest row.

    They are int32 [>= N], float32 [>= N] (-distance² / 2) and int32 [>= M].
    """
    if rows.size * panels.shape[0] * panels.shape[2] < _MIN_THREADED_WORK:
        num_threads = 1
    blocks = -(-len(rows) // neighbours.ROWS)
    edges = [blocks * part // num_threads * neighbours.ROWS for part in range(num_threads + 1)]
    spans = [(a, b) for a, b in itertools.pairwise(edges) if a < b]
    parts = run_parts(
        lambda span: neighbours.scan(rows[span[0] : span[1]], panels, with_second), spans
    )
    best, back = parts[0][3], parts[0][4]
    for (first, _), part in zip(spans[1:], parts[1:]):
        better = part[3] > best
        best = np.where(better, part[3], best)
        back = np.where(better, part[4] + np.int32(first), back)
    nearest = np.concatenate([part[2] for part in parts]) if len(parts) > 1 else parts[0][2]
    second = np.concatenate([part[1] for part in parts]) if len(parts) > 1 else parts[0][1]
    return nearest, second, back


def _compilable(descriptors: np.ndarray) -> np.ndarray:
    """Returns one type to compile for, C-contiguous float32: codes and half floats are exact in it.

    It is read-only as well: some arrays are, and Numba compiles for those and for others apart.
    """
    view = np.ascontiguousarray(descriptors, np.float32).view()
    view.flags.writeable = False
    return view
