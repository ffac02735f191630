"""The data types that stages exchange: frozen NumPy records that check themselves.

Conventions, stated here once:
  * Locations are (y, x) in pixels of the image as `datasets.images.read_image` gives it (upright by
    EXIF, cropped to its box if it has one). The centre of the top-left pixel is (0, 0).
  * Boxes are (y0, x0, y1, x1) in pixels, y1 and x1 exclusive.
  * `scales` is the image-pyramid factor that a feature was found at divided into one: 1 / factor,
    so a feature of scale 2 covers twice the pixels.
  * Larger scores are better. Ids are unique strings. A row index of -1 means "none".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from delf_tf.checks import as_array, require

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class ImageRef:
    """An image by name.

    Attributes:
      id: unique within its collection; for a folder, the path below it.
      path: the file.
      box: (y0, x0, y1, x1), pixels of the upright image that alone are to be used, or None.
    """

    id: str
    path: Path
    box: Box | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        require(bool(self.id), "ImageRef.id must not be empty.", path=self.path)
        if self.box is not None:
            box = tuple(
                float(edge) for edge in as_array("ImageRef.box", self.box, (4,), np.float64)
            )
            object.__setattr__(self, "box", box)
            require(
                box[0] < box[2] and box[1] < box[3],
                "ImageRef.box must be (y0, x0, y1, x1) with y0 < y1 and x0 < x1.",
                box=box,
            )


@dataclasses.dataclass(frozen=True, eq=False)
class LocalFeatures:
    """Local features of one image; N may be 0.

    Attributes:
      locations: float32 [N, 2], (y, x) pixels.
      descriptors: float32 [N, D], or float16.
      scores: float32 [N], attention, larger is better.
      scales: float32 [N], 1 / pyramid factor, positive.
    """

    locations: np.ndarray
    descriptors: np.ndarray
    scores: np.ndarray
    scales: np.ndarray

    def __post_init__(self) -> None:
        half = getattr(self.descriptors, "dtype", None) == np.float16
        _set(self, "descriptors", ("N", "D"), np.float16 if half else np.float32)
        num = len(self.descriptors)
        _set(self, "locations", (num, 2), np.float32)
        _set(self, "scores", (num,), np.float32)
        _set(self, "scales", (num,), np.float32)
        require(
            bool((self.scales > 0).all()),
            "LocalFeatures.scales must be positive.",
            scales=self.scales,
        )

    def __len__(self) -> int:
        return len(self.locations)

    @property
    def dim(self) -> int:
        """Width D of the descriptors."""
        return int(self.descriptors.shape[1])

    def take(self, rows: np.ndarray) -> LocalFeatures:
        """Returns the features at `rows`, an integer or boolean array."""
        return LocalFeatures(
            *(getattr(self, field.name)[rows] for field in dataclasses.fields(self))
        )

    @classmethod
    def empty(cls, dim: int) -> LocalFeatures:
        """Returns zero features of width `dim`."""
        return cls(np.zeros((0, 2)), np.zeros((0, dim)), np.zeros(0), np.zeros(0))


@dataclasses.dataclass(frozen=True, eq=False)
class GlobalDescriptors:
    """One vector an image.

    Attributes:
      ids: N unique image ids.
      vectors: float32 [N, D], rows L2-normalised to 1e-3.
    """

    ids: tuple[str, ...]
    vectors: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", _ids("GlobalDescriptors.ids", self.ids))
        _set(self, "vectors", (len(self.ids), "D"), np.float32)
        norms = np.linalg.norm(self.vectors, axis=1)
        require(
            bool(np.allclose(norms, 1, atol=1e-3)),
            "GlobalDescriptors.vectors must have rows of L2 norm 1.",
            norms=norms,
        )

    def __len__(self) -> int:
        return len(self.ids)


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """For each query the database's images, best first.

    The order of `indices` IS the ranking. Scores stay those of the first stage when a later stage
    re-orders, so they need not descend.

    Attributes:
      query_ids: Q unique ids.
      database_ids: the database's unique ids.
      indices: int64 [Q, K], rows of `database_ids`; -1 for none, only at the end of a row.
      scores: float32 [Q, K]; at -1 the value has no meaning.
      left_out: by query id, the ids of database images that are the query itself under another
        name; their rows are in no result of that query, and count as junk.
    """

    query_ids: tuple[str, ...]
    database_ids: tuple[str, ...]
    indices: np.ndarray
    scores: np.ndarray
    left_out: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "query_ids", _ids("Ranking.query_ids", self.query_ids))
        object.__setattr__(self, "database_ids", _ids("Ranking.database_ids", self.database_ids))
        _set(self, "indices", (len(self.query_ids), "K"), np.int64)
        _set(self, "scores", tuple(self.indices.shape), np.float32)
        inside = (self.indices >= -1) & (self.indices < len(self.database_ids))
        require(
            bool(inside.all()),
            f"Ranking.indices must lie in -1..{len(self.database_ids) - 1}.",
            indices=self.indices,
        )
        ordered = np.sort(self.indices, axis=1)
        twice = (np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)
        require(
            not twice.any(),
            "Ranking.indices must name an image once a query.",
            queries=[self.query_ids[row] for row in np.flatnonzero(twice.any(axis=1))[:3]],
        )
        gap = (self.indices[:, :-1] < 0) & (self.indices[:, 1:] >= 0)
        require(
            not gap.any(),
            "Ranking.indices may hold -1 only at the end of a row.",
            queries=[self.query_ids[row] for row in np.flatnonzero(gap.any(axis=1))[:3]],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Verification:
    """How well one image's features fit another's under a geometric transform.

    Attributes:
      num_inliers: count of True in `inlier_mask`.
      transform: float64 [3, 3], homogeneous (x, y, 1) of the query to (x, y, 1) of the database
        image; all zeros when no transform was found.
      matches: int64 [M, 2], putative matches as rows (query feature, database feature).
      inlier_mask: bool [M].
    """

    num_inliers: int
    transform: np.ndarray
    matches: np.ndarray
    inlier_mask: np.ndarray

    def __post_init__(self) -> None:
        _set(self, "transform", (3, 3), np.float64)
        _set(self, "matches", ("M", 2), np.int64)
        _set(self, "inlier_mask", (len(self.matches),), bool)
        require(
            int(self.inlier_mask.sum()) == self.num_inliers,
            "Verification.num_inliers must count inlier_mask.",
            num_inliers=self.num_inliers,
            counted=int(self.inlier_mask.sum()),
        )

    @classmethod
    def none(cls, matches: np.ndarray | None = None) -> Verification:
        """Returns the verification that found no transform for `matches` [M, 2]."""
        matches = np.zeros((0, 2), np.int64) if matches is None else matches
        return cls(0, np.zeros((3, 3)), matches, np.zeros(len(matches), bool))


@dataclasses.dataclass(frozen=True, eq=False)
class GroundTruth:
    """What a ranking is scored against, one entry a query.

    Attributes:
      positives: Q int64 arrays, rows of the ranking's `database_ids`.
      junk: Q int64 arrays, rows that count as if absent (the query itself, ambiguous views).
    """

    positives: tuple[np.ndarray, ...]
    junk: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        for name in ("positives", "junk"):
            rows = tuple(
                as_array(f"GroundTruth.{name}", r, ("P",), np.int64) for r in getattr(self, name)
            )
            object.__setattr__(self, name, rows)
        require(
            len(self.positives) == len(self.junk),
            "GroundTruth must have positives and junk for the same queries.",
            num_positives=len(self.positives),
            num_junk=len(self.junk),
        )
        for row, (positives, junk) in enumerate(zip(self.positives, self.junk)):
            require(
                not np.intersect1d(positives, junk).size,
                "GroundTruth must not call an image both positive and junk.",
                query=row,
            )

    def __len__(self) -> int:
        return len(self.positives)


def _set(record: object, name: str, shape: tuple[int | str, ...], dtype: type) -> None:
    label = f"{type(record).__name__}.{name}"
    object.__setattr__(record, name, as_array(label, getattr(record, name), shape, dtype))


class _Ids(tuple):
    """Ids found to be unique: a million of them are checked once, not with every ranking."""

    __slots__ = ()


def _ids(name: str, ids: Sequence[str]) -> tuple[str, ...]:
    if isinstance(ids, _Ids):
        return ids
    ids = tuple(str(one) for one in ids)
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        repeated = [one for one in ids if one in seen or seen.add(one)]  # type: ignore[func-returns-value]
        require(False, f"{name} must be unique.", repeated=repeated[:3])
    return _Ids(ids)
