"""Real pairs of images: how many does verification solve, and does it tell places apart?

For `run` a folder holds NAME_1 and NAME_2 (.png or .jpg) and NAME.txt, the 3 x 3 homography of
(x, y, 1) from the first to the second, as the EVD collection does; `run_photos` needs photographs
and their labels. Features are OpenCV's SIFT with the square root of L1-normalised descriptors
(RootSIFT, Arandjelović and Zisserman, 2012), and matches are mutual, the same for everyone.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from delf_tf.artifacts import StrPath
from delf_tf.benchmarks import matching_peers
from delf_tf.checks import as_array, invalid, require
from delf_tf.datasets import folder, images
from delf_tf.matching.nearest import match
from delf_tf.types import LocalFeatures

# Corner errors are averaged under the curve of solved pairs up to this many pixels.
_AUC_LIMIT_PX = 20.0
_OPENCV = ("USAC_ACCURATE", "USAC_MAGSAC")

# Estimator and inlier threshold in pixels: OpenCV's usual one, and its best on landmarks.
Solver = tuple[str, float]
SOLVERS: dict[str, Solver] = {
    "ours, 20 px": ("ours homography", 20.0),
    "OpenCV USAC_ACCURATE, 3 px": ("OpenCV USAC_ACCURATE", 3.0),
    "OpenCV USAC_ACCURATE, 10 px": ("OpenCV USAC_ACCURATE", 10.0),
    "OpenCV USAC_MAGSAC, 3 px": ("OpenCV USAC_MAGSAC", 3.0),
}


@dataclasses.dataclass(frozen=True, eq=False)
class RealPair:
    """Two images' features and the truth.

    Attributes:
      name: of the pair.
      query: features of the first image.
      database: features of the second.
      transform: [3, 3] of (x, y, 1), query to database.
      size: (width, height) of the first image.
    """

    name: str
    query: LocalFeatures
    database: LocalFeatures
    transform: np.ndarray
    size: tuple[int, int]


def load_pairs(directory: StrPath, num_features: int = 8000) -> list[RealPair]:
    """Reads a folder of pairs and finds their features; needs OpenCV.

    Raises:
      InputError: no pairs there, an image missing or unreadable, or not a 3 x 3 homography.
    """
    truths = sorted(Path(directory).glob("*.txt"))
    require(
        bool(truths), "The folder must hold NAME.txt, NAME_1 and NAME_2.", directory=Path(directory)
    )
    return [_load(truth, num_features) for truth in truths]


def corner_error(found: np.ndarray, truth: np.ndarray, size: tuple[int, int]) -> float:
    """Returns the mean distance in pixels between where two transforms take an image's corners."""
    if not np.any(found):
        return float("inf")
    width, height = size
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], float).T
    with np.errstate(all="ignore"):
        a, b = (transform @ corners for transform in (found, truth))
        errors = np.linalg.norm(a[:2] / a[2] - b[:2] / b[2], axis=0)
    return float(errors.mean()) if np.isfinite(errors).all() else float("inf")


def run(
    directory: StrPath,
    *,
    max_ratio: float = 0.8,
    threshold_px: float = 6.0,
    opencv_threshold_px: float = 3.0,
    num_features: int = 8000,
) -> dict[str, Any]:
    """Returns {"rows"}, one a solver: pairs solved by corner error, and the area under the curve.

    Args:
      directory: see `load_pairs`.
      max_ratio: of the mutual matches that all solvers get.
      threshold_px: ours.
      opencv_threshold_px: OpenCV's, whose good settings differ.
      num_features: an image, at most.
    """
    pairs = load_pairs(directory, num_features)
    solvers = {
        "ours": ("ours homography", threshold_px),
        **{f"OpenCV {one}": (f"OpenCV {one}", opencv_threshold_px) for one in _OPENCV},
    }
    rows = []
    for name, solver in solvers.items():
        errors = np.array([_error(pair, solver, max_ratio) for pair in pairs])
        rows.append(
            {
                "solver": name,
                "num_pairs": len(pairs),
                "solved_10px": int((errors < 10).sum()),
                "solved_20px": int((errors < 20).sum()),
                "auc_20px": float(np.clip(1 - errors / _AUC_LIMIT_PX, 0, 1).mean()),
            }
        )
    return {"rows": rows}


def run_photos(
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
            counts[name].append(int(_solve(SOLVERS[name], points)[1].sum()))
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


def rootsift(image: np.ndarray, num_features: int) -> LocalFeatures:
    """Returns OpenCV's SIFT features with RootSIFT descriptors [N, 128].

    Args:
      image: uint8 [H, W], grey levels.
      num_features: at most, the strongest.

    Raises:
      InputError: OpenCV is not installed.
    """
    keypoints, descriptors = _cv2().SIFT_create(num_features).detectAndCompute(image, None)
    if not keypoints:
        return LocalFeatures.empty(128)
    sums = np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9)
    return LocalFeatures(
        np.array([point.pt[::-1] for point in keypoints]),
        np.sqrt(descriptors / sums),
        np.array([point.response for point in keypoints]),
        np.array([point.size for point in keypoints]),
    )


def _error(pair: RealPair, solver: Solver, max_ratio: float) -> float:
    points = _matched_points(pair.query, pair.database, max_ratio)
    return corner_error(_solve(solver, points)[0], pair.transform, pair.size)


def _solve(solver: Solver, points: tuple[np.ndarray, np.ndarray]) -> matching_peers.Found:
    if len(points[0]) < 5:
        return np.zeros((3, 3)), np.zeros(len(points[0]), bool)
    estimator, threshold_px = solver
    return matching_peers.estimator(estimator)(*points, threshold_px, 0)


def _load(truth: Path, num_features: int) -> RealPair:
    try:
        transform = np.loadtxt(truth)
    except ValueError:
        transform = np.zeros(0)
    transform = as_array(f"{truth.name}", transform, (3, 3), np.float64)
    (query, size), (database, _) = (_features(truth, part, num_features) for part in (1, 2))
    return RealPair(truth.stem, query, database, transform, size)


def _features(truth: Path, part: int, num: int) -> tuple[LocalFeatures, tuple[int, int]]:
    cv2 = _cv2()
    found = [truth.with_name(f"{truth.stem}_{part}{end}") for end in (".png", ".jpg")]
    paths = [path for path in found if path.is_file()]
    image = cv2.imread(str(paths[0]), cv2.IMREAD_GRAYSCALE) if paths else None
    if image is None:
        raise invalid("Each NAME.txt must have readable images beside it.", image=found[0])
    return rootsift(image, num), (image.shape[1], image.shape[0])


def _cv2() -> Any:
    # One wording for a missing library.
    matching_peers.estimator("OpenCV affine")
    return importlib.import_module("cv2")


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


def _shrink(pixels: np.ndarray, max_side_px: int) -> np.ndarray:
    from PIL import Image  # noqa: PLC0415 - with the pictures alone

    picture = Image.fromarray(pixels)
    picture.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    return np.asarray(picture.convert("L"))
