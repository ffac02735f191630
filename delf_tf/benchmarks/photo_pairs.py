"""Pairs of labelled photographs: do inlier counts tell the same place from another?

Beside `delf_tf.benchmarks.real_pairs`, which needs homographies, this needs a folder with labels.
All solvers get the same RootSIFT features and the same mutual matches.
"""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from delf_tf.artifacts import StrPath
from delf_tf.benchmarks import matching_peers
from delf_tf.benchmarks.real_pairs import rootsift
from delf_tf.checks import require
from delf_tf.datasets import folder, images
from delf_tf.matching import match
from delf_tf.types import LocalFeatures

# Estimator and inlier threshold in pixels: OpenCV's usual one, and its best on landmarks.
SOLVERS = {
    "ours, 20 px": ("ours homography", 20.0),
    "OpenCV USAC_ACCURATE, 3 px": ("OpenCV USAC_ACCURATE", 3.0),
    "OpenCV USAC_ACCURATE, 10 px": ("OpenCV USAC_ACCURATE", 10.0),
    "OpenCV USAC_MAGSAC, 3 px": ("OpenCV USAC_MAGSAC", 3.0),
}


def run(
    directory: StrPath,
    labels: StrPath,
    *,
    num_features: int = 1000,
    max_side_px: int = 640,
    max_ratio: float = 0.8,
    num_different: int = 500,
) -> dict[str, Any]:
    """Returns, for each solver, how well its inlier counts part pairs of one place from others.

    Args:
      directory: of the photographs.
      labels: CSV with columns image and place.
      num_features: an image, at most.
      max_side_px: photographs are shrunk to this longer side.
      max_ratio: of the mutual matches.
      num_different: pairs of different places, drawn with a fixed seed.

    Returns:
      {"num_same", "num_different", "rows"}; a row has `auc`, the area under the ROC curve,
      `solved`, the share of the pairs of one place with more inliers than 99 % of the others, and
      `ms`, the median time of the estimation alone. The row "putative matches" scores by their
      number, without any geometry.

    Raises:
      InputError: no pair of one place, or none of different places.
    """
    refs = folder.list_images(directory)
    places = folder.places([ref.id for ref in refs], folder.read_labels(labels))
    same, different = _pairs(places, num_different)
    used = sorted({row for pair in (*same, *different) for row in pair})
    features = {
        row: rootsift(_shrink(images.read_image(refs[row]), max_side_px), num_features)
        for row in used
    }
    counts: dict[str, list[int]] = {name: [] for name in SOLVERS}
    times: dict[str, list[float]] = {name: [] for name in SOLVERS}
    num_matches: list[int] = []
    for first, second in (*same, *different):
        points = _matched_points(features[first], features[second], max_ratio)
        for name in SOLVERS:
            start = time.perf_counter()
            counts[name].append(_count(name, points))
            times[name].append(1e3 * (time.perf_counter() - start))
        num_matches.append(len(points[0]))
    truth = np.arange(len(same) + len(different)) < len(same)
    rows = [
        {"solver": name, **_figures(np.array(counts[name]), truth),
         "ms": statistics.median(times[name])}
        for name in SOLVERS
    ]  # fmt: skip
    rows.append({"solver": "putative matches", **_figures(np.array(num_matches), truth)})
    return {"num_same": len(same), "num_different": len(different), "rows": rows}


def _pairs(places: tuple[str, ...], num_different: int) -> tuple[list, list]:
    rows = [row for row, place in enumerate(places) if place]
    same = [pair for pair in itertools.combinations(rows, 2) if places[pair[0]] == places[pair[1]]]
    others = [
        (first, second)
        for first, second in itertools.combinations(range(len(places)), 2)
        if places[first] != places[second]
    ]
    require(bool(same), "Two photographs must show one place.", num_images=len(places))
    require(bool(others), "Two photographs must show different places.", num_images=len(places))
    drawn = np.random.default_rng(0).permutation(len(others))[:num_different]
    return same, [others[row] for row in drawn]


def _figures(counts: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    limit = np.quantile(counts[~truth], 0.99, method="higher")
    return {
        "auc": float(roc_auc_score(truth, counts)),
        "solved": float((counts[truth] > limit).mean()),
    }


def _matched_points(
    first: LocalFeatures, second: LocalFeatures, max_ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    matches = match(first, second, max_ratio=max_ratio)
    query, database = (
        np.ascontiguousarray(features.locations[rows][:, ::-1], np.float64)
        for features, rows in zip((first, second), matches.T)
    )
    return query, database


def _count(name: str, points: tuple[np.ndarray, np.ndarray]) -> int:
    if len(points[0]) < 5:
        return 0
    estimator, threshold_px = SOLVERS[name]
    return int(matching_peers.estimator(estimator)(*points, threshold_px, 0).sum())


def _shrink(pixels: np.ndarray, max_side_px: int) -> np.ndarray:
    from PIL import Image  # noqa: PLC0415 - with the pictures alone

    picture = Image.fromarray(pixels)
    picture.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    return np.asarray(picture.convert("L"))
