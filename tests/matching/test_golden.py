"""The original's inlier counts, by its settings: one-way, threshold or ratio, affine, 20 px."""

from __future__ import annotations

import json

import numpy as np
import pytest

from delf_tf.matching import verify
from delf_tf.types import LocalFeatures

LIMITS = {
    "dist_1.0": {"max_distance": 1.0},
    "dist_0.8": {"max_distance": 0.8},
    "ratio_0.9": {"max_ratio": 0.9},
}


def _features(arrays, case, image):
    locations, descriptors = arrays[f"{case}_{image}loc"], arrays[f"{case}_{image}desc"]
    ones = np.ones(len(locations))
    return LocalFeatures(locations, descriptors, ones, ones)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("case", [1, 4])
def test_counts_of_the_original(golden_dir, case, limits):
    folder = golden_dir / "delf" / "matching"
    expected = json.loads((folder / "expected.json").read_text())["cases"][case]
    counts = expected["inliers_seeds_0_1_2"][limits]
    with np.load(folder / "pairs.npz") as arrays:
        query, database = (_features(arrays, case, image) for image in "qi")
    found = verify(
        query,
        database,
        "affine",
        inlier_threshold_px=20,
        mutual=False,
        symmetric=False,
        **LIMITS[limits],
    )
    if expected["ntrue"] >= 40:
        assert min(counts) <= found.num_inliers <= max(counts)
    else:
        # Chance: the original also counts three matches that fit themselves, and mirrored ones.
        assert found.num_inliers <= max(counts) + 1
