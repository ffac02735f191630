"""The transform that most putative matches agree with."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from delf_tf.checks import as_array, require, require_choice
from delf_tf.matching.kernels import search
from delf_tf.matching.kernels.points import mark, standardize

# Matches that a transform of each model fits whatever they are.
SAMPLE_SIZES = {"similarity": 2, "affine": 3, "homography": 4}

PlacesAndScales = tuple[np.ndarray, np.ndarray]

_SOURCES = {
    ("random", False): search.RANDOM,
    ("scales", False): search.SCALES,
    ("scales", True): search.SCALES_UPRIGHT,
}


@dataclasses.dataclass(frozen=True)
class RansacOptions:
    """How the transform is searched; each field is an argument of `verify`.

    Attributes:
      model: "similarity", "affine" or "homography". With "homography" the answer is an affine
        transform where a homography does not explain clearly more matches.
      inlier_threshold_px: inliers lie nearer than this to where the transform takes them, in
        pixels of the database image.
      inlier_threshold_share: if above 0, the threshold is this share of the larger extent of the
        database image's features instead, for images of any size.
      symmetric: whether the geometric mean of an inlier's distances in both images must be within
        the threshold, too. It binds where the transform shrinks: by s², the local area factor, the
        threshold becomes √s of itself. Otherwise transforms that shrink gain chance inliers, as
        everything lands near something.
      max_trials: samples at most; fewer are drawn once `confidence` is reached.
      confidence: probability, at which the search stops, that a sample of inliers alone was drawn.
      max_scale: transforms that magnify or shrink by more than this are rejected.
      max_anisotropy: so are those that stretch one direction by more than this over the other.
      allow_mirrored: whether a transform may turn the image over.
      seed: of the samples; the result depends on nothing else but the input.
      hypotheses: "random" samples of two or three matches, or "scales": similarities from the
        features' scales, of single matches if `upright`, else of pairs that agree on the scale;
        best matches first, without chance.
      upright: for "scales": whether images are upright, so that one match makes a hypothesis.
    """

    model: str = "homography"
    inlier_threshold_px: float = 20.0
    inlier_threshold_share: float = 0.0
    symmetric: bool = True
    max_trials: int = 2000
    confidence: float = 0.999
    max_scale: float = 16.0
    max_anisotropy: float = 8.0
    allow_mirrored: bool = False
    seed: int = 0
    hypotheses: str = "random"
    upright: bool = False

    def __post_init__(self) -> None:
        require_choice("model", self.model, SAMPLE_SIZES)
        require_choice("hypotheses", self.hypotheses, ("random", "scales"))
        require(
            not self.upright or self.hypotheses == "scales",
            "upright must be False unless hypotheses is 'scales'.",
            upright=self.upright,
            hypotheses=self.hypotheses,
        )
        _require_number("inlier_threshold_px", self.inlier_threshold_px, 0, math.inf)
        share = self.inlier_threshold_share
        require(0 <= share < 1, "It must lie in 0..1, below 1.", inlier_threshold_share=share)
        _require_number("max_trials", self.max_trials, 0, 2**31)
        _require_number("confidence", self.confidence, 0, 1)
        _require_number("max_scale", self.max_scale, 1, math.inf)
        _require_number("max_anisotropy", self.max_anisotropy, 1, math.inf)
        require(
            isinstance(self.seed, (int, np.integer)) and 0 <= self.seed < 2**63,
            "seed must be a whole number from 0 below 2**63.",
            seed=self.seed,
        )


def _require_number(name: str, value: Any, low: float, high: float) -> None:
    received: dict[str, Any] = {name: value}
    fits = isinstance(value, (int, float, np.number)) and bool(low < value < high)
    require(fits, f"{name} must be a number above {low} and below {high}.", **received)


def estimate_transform(
    query_yx: np.ndarray, database_yx: np.ndarray, options: RansacOptions | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the transform that most of the matched points agree with.

    LO-RANSAC (Chum et al., 2003): samples of two or three matches, each local optimum refined by
    iteratively re-weighted least squares.

    Args:
      query_yx: [M, 2], (y, x) pixels.
      database_yx: [M, 2], the matched points; best matches first, if some are known to be better.
      options: None for the defaults.

    Returns:
      The transform float64 [3, 3] of homogeneous (x, y, 1), zeros if none was found, and the
      inlier mask bool [M].

    Raises:
      InputError: other shapes, NaN or infinite.
    """
    query = as_array("query_yx", query_yx, ("M", 2), np.float32)
    database = as_array("database_yx", database_yx, (len(query), 2), np.float32)
    rows = np.arange(len(query))
    matches = np.stack([rows, rows], axis=1)
    scales = np.ones(len(query), np.float32)
    return search_transform(
        (query, scales), (database, scales), matches, rows, options or RansacOptions()
    )


def search_transform(
    query: PlacesAndScales,
    database: PlacesAndScales,
    matches: np.ndarray,
    order: np.ndarray,
    options: RansacOptions,
) -> tuple[np.ndarray, np.ndarray]:
    """`estimate_transform` of checked arrays.

    Args:
      query: float32 locations [N, 2], (y, x), and scales [N].
      database: likewise.
      matches: int64 [M, 2].
      order: int64 [M], rows of `matches`, best first.
      options: of the search.
    """
    num = len(matches)
    nothing = np.zeros((3, 3)), np.zeros(num, bool)
    least = SAMPLE_SIZES["similarity" if options.model == "similarity" else "affine"]
    if num <= least:
        return nothing
    best_first = matches[order]
    points = np.empty((4, num), np.float32)
    cx, cy, width = standardize(query[0], best_first[:, 0], points, 0)
    cu, cv, spread = standardize(database[0], best_first[:, 1], points, 2)
    if not width or not spread:
        return nothing
    threshold_px = float(options.inlier_threshold_px)
    if options.inlier_threshold_share:
        threshold_px = options.inlier_threshold_share * float(np.ptp(database[0], axis=0).max())
    zoom = width / spread
    ratios = zoom * database[1][best_first[:, 1]].astype(np.float64) / query[1][best_first[:, 0]]
    best = np.zeros(9)
    count = search.search(
        points,
        ratios,
        _settings(options, threshold_px, zoom, spread),
        np.array([options.seed], np.uint64),
        _SOURCES[options.hypotheses, options.upright],
        search.MODELS[options.model],
        (np.empty((13, 9)), np.empty(num, np.float32)),
        best,
    )
    if not count:
        return nothing
    transform = _in_pixels(best.reshape(3, 3), (cx, cy, width), (cu, cv, spread))
    mask = np.zeros(num, bool)
    limits = threshold_px, _level(options)
    count = mark(query[0], database[0], matches, transform, limits, mask)
    # Rounding at the threshold's edge can leave fewer than the search counted.
    return (transform, mask) if count > least and np.isfinite(transform).all() else nothing


def _settings(
    options: RansacOptions, threshold_px: float, zoom: float, spread: float
) -> tuple[float, ...]:
    return (
        threshold_px / spread,
        (zoom / options.max_scale) ** 2,
        (zoom * options.max_scale) ** 2,
        float(options.max_anisotropy),
        float(options.allow_mirrored),
        zoom**2 * _level(options),
        float(options.max_trials),
        math.log1p(-options.confidence),
    )


def _level(options: RansacOptions) -> float:
    """The area factor below which the threshold shrinks with the transform; tiny for none."""
    return 1.0 if options.symmetric else 1e-30


def _in_pixels(
    transform: np.ndarray, source: tuple[float, float, float], target: tuple[float, float, float]
) -> np.ndarray:
    """Undoes the standardizing (centre x, centre y, spread) of both images."""
    cx, cy, width = source
    cu, cv, spread = target
    standardize_source = np.array([[1, 0, -cx], [0, 1, -cy], [0, 0, width]]) / width
    restore_target = np.array([[spread, 0, cu], [0, spread, cv], [0, 0, 1]])
    transform = restore_target @ transform @ standardize_source
    # The corner entry is 1 by custom, unless the origin maps to infinity.
    corner = transform[2, 2]
    return transform / corner if abs(corner) > 1e-9 * abs(transform[2]).max() else transform
