"""The transform that most putative matches agree with."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from delf_tf.checks import as_array, require, require_choice
from delf_tf.matching.kernels import search

# Matches that a transform of each model fits whatever they are.
SAMPLE_SIZES = {"similarity": 2, "affine": 3, "homography": 4}


@dataclasses.dataclass(frozen=True)
class RansacOptions:
    """How the transform is searched; each field is an argument of `verify`.

    Attributes:
      model: "similarity", "affine" or "homography". With "homography" the answer is an affine
        transform where a homography does not explain clearly more matches.
      inlier_threshold_px: inliers lie nearer than this to where the transform takes them, in
        pixels of the database image.
      max_trials: samples at most; fewer are drawn once `confidence` is reached.
      confidence: probability, at which the search stops, that a sample of inliers alone was drawn.
      max_scale: transforms that magnify or shrink by more than this are rejected.
      max_anisotropy: so are those that stretch one direction by more than this over the other.
      allow_mirrored: whether a transform may turn the image over.
      seed: of the samples; the result depends on nothing else but the input.
    """

    model: str = "homography"
    inlier_threshold_px: float = 20.0
    max_trials: int = 2000
    confidence: float = 0.999
    max_scale: float = 16.0
    max_anisotropy: float = 8.0
    allow_mirrored: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice("model", self.model, SAMPLE_SIZES)
        _require_number("inlier_threshold_px", self.inlier_threshold_px, 0, math.inf)
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
    query = as_array("query_yx", query_yx, ("M", 2), np.float64)
    database = as_array("database_yx", database_yx, (len(query), 2), np.float64)
    return search_transform(query, database, options or RansacOptions())


def search_transform(
    query_yx: np.ndarray, database_yx: np.ndarray, options: RansacOptions
) -> tuple[np.ndarray, np.ndarray]:
    """`estimate_transform` of checked float64 arrays."""
    num = len(query_yx)
    nothing = np.zeros((3, 3)), np.zeros(num, bool)
    if num <= SAMPLE_SIZES["similarity" if options.model == "similarity" else "affine"]:
        return nothing
    transform, mask, count = search.search(
        np.ascontiguousarray(query_yx[:, ::-1]),
        np.ascontiguousarray(database_yx[:, ::-1]),
        search.MODELS[options.model],
        float(options.inlier_threshold_px),
        (
            float(options.max_scale),
            float(options.max_anisotropy),
            float(options.allow_mirrored),
        ),
        int(options.max_trials),
        math.log1p(-options.confidence),
        int(options.seed),
    )
    return (transform, mask) if count else nothing
