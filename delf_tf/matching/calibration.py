"""How many inliers chance gives, so that a count above it means something."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from delf_tf.checks import as_array, require
from delf_tf.matching.verification import verify
from delf_tf.threads import check_num_threads, run_all
from delf_tf.types import LocalFeatures, Verification

# Verifications that a step of the threshold's table rests on.
_MIN_BIN = 50


@dataclasses.dataclass(frozen=True, eq=False)
class ChanceInliers:
    """Inlier counts that pairs without a match stay at or below, by number of putative matches.

    Attributes:
      num_matches: float64 [B], ascending: mean putative matches of each bin of pairs.
      max_inliers: float64 [B], never descending: the wanted quantile of the inlier count there.
      quantile: share of pairs without a match that stay at or below.
    """

    num_matches: np.ndarray
    max_inliers: np.ndarray
    quantile: float

    def __post_init__(self) -> None:
        for name in ("num_matches", "max_inliers"):
            shape: tuple[Any, ...] = ("B",)
            checked = as_array(f"ChanceInliers.{name}", getattr(self, name), shape, np.float64)
            object.__setattr__(self, name, checked)
        require(
            0 < len(self.num_matches) == len(self.max_inliers),
            "ChanceInliers must have as many num_matches as max_inliers, and at least one.",
            num_matches=self.num_matches,
            max_inliers=self.max_inliers,
        )

    def threshold(self, num_matches: int) -> int:
        """Returns the least inlier count that is not put down to chance.

        Between the calibrated numbers of putative matches it is interpolated; beyond the largest
        it grows in proportion.
        """
        beyond = max(1.0, num_matches / max(self.num_matches[-1], 1.0))
        chance = np.interp(num_matches, self.num_matches, self.max_inliers) * beyond
        return math.floor(chance) + 1


def calibrate(
    pairs: Iterable[tuple[LocalFeatures, LocalFeatures]],
    *,
    quantile: float = 0.99,
    num_threads: int | None = None,
    **arguments: Any,
) -> ChanceInliers:
    """Verifies pairs that do not match and learns what counts chance gives.

    Args:
      pairs: (query, database) features of different places; hundreds, of the kind that will be
        verified.
      quantile: share of such pairs that is to stay below the threshold.
      num_threads: None for all processors.
      **arguments: those of `verify`, as in use.

    Raises:
      InputError: no pairs, or a quantile outside 0..1.
    """
    threads = check_num_threads(num_threads)
    found = run_all(lambda pair: verify(*pair, num_threads=1, **arguments), pairs, threads)
    return chance_inliers(found, quantile=quantile)


def chance_inliers(
    verifications: Sequence[Verification], *, quantile: float = 0.99
) -> ChanceInliers:
    """Learns what counts chance gives from verifications of pairs that do not match."""
    require(0 < quantile <= 1, "quantile must be above 0 and at most 1.", quantile=quantile)
    require(
        len(verifications) > 0,
        "Calibration must have at least one pair.",
        hint="Take pairs of images that show different places.",
        num_pairs=len(verifications),
    )
    matches = np.array([len(each.matches) for each in verifications])
    inliers = np.array([each.num_inliers for each in verifications])
    order = np.argsort(matches, kind="stable")
    bins = np.array_split(order, max(1, len(order) // _MIN_BIN))
    # "higher" keeps the promise for the pairs seen; a sum of inliers has no fractions.
    limits = [np.quantile(inliers[rows], quantile, method="higher") for rows in bins]
    return ChanceInliers(
        np.array([matches[rows].mean() for rows in bins]), np.maximum.accumulate(limits), quantile
    )
