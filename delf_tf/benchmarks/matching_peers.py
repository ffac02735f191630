"""Other libraries' estimators behind one signature, for comparison only.

Each takes matched points, (x, y) float64 [M, 2] twice, the inlier threshold in pixels and a seed,
and returns the transform float64 [3, 3] of (x, y, 1), zeros if none was found, and the inlier mask
bool [M]. The libraries are optional: `pip install "delf_tf[peers]"`.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from delf_tf.checks import invalid, require_choice
from delf_tf.matching.ransac import RansacOptions, estimate_transform

Found = tuple[np.ndarray, np.ndarray]
Estimator = Callable[[np.ndarray, np.ndarray, float, int], Found]

# What OpenCV may spend: enough for 5 % inliers.
_OPENCV_MAX_TRIALS = 10_000


def ours(model: str) -> Estimator:
    """Returns this package's estimator of a model."""

    def estimate(query: np.ndarray, database: np.ndarray, threshold_px: float, seed: int) -> Found:
        options = RansacOptions(model, threshold_px, seed=seed)
        return estimate_transform(query[:, ::-1], database[:, ::-1], options)

    return estimate


def skimage_affine(
    query: np.ndarray, database: np.ndarray, threshold_px: float, seed: int
) -> Found:
    """The original DELF's: scikit-image's RANSAC of affine transforms, 1000 trials at most."""
    measure = _load("skimage.measure")
    transform = _load("skimage.transform")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns where it finds no inliers.
        found, mask = measure.ransac(
            (query, database),
            transform.AffineTransform,
            min_samples=3,
            residual_threshold=threshold_px,
            max_trials=1000,
            rng=seed,
        )
    return _complete(None if mask is None else found.params, mask, len(query))


def opencv_affine(query: np.ndarray, database: np.ndarray, threshold_px: float, seed: int) -> Found:
    """OpenCV's affine RANSAC."""
    cv2 = _load("cv2")
    cv2.setRNGSeed(seed)
    found, mask = cv2.estimateAffine2D(
        query, database, method=cv2.RANSAC, ransacReprojThreshold=threshold_px, confidence=0.999
    )
    return _complete(found, mask, len(query))


def opencv_homography(method: str) -> Estimator:
    """Returns OpenCV's homography estimator of a method, as "USAC_ACCURATE"."""

    def estimate(query: np.ndarray, database: np.ndarray, threshold_px: float, seed: int) -> Found:
        cv2 = _load("cv2")
        cv2.setRNGSeed(seed)
        found, mask = cv2.findHomography(
            query,
            database,
            getattr(cv2, method),
            threshold_px,
            maxIters=_OPENCV_MAX_TRIALS,
            confidence=0.999,
        )
        return _complete(found, mask, len(query))

    return estimate


def pydegensac_homography(
    query: np.ndarray, database: np.ndarray, threshold_px: float, seed: int
) -> Found:
    """DEGENSAC's homography; it takes no seed."""
    del seed
    pydegensac = _load("pydegensac")
    found = pydegensac.findHomography(query, database, threshold_px, 0.999, _OPENCV_MAX_TRIALS)
    return _complete(*found, len(query))


ESTIMATORS: dict[str, tuple[Estimator, str]] = {
    "ours homography": (ours("homography"), "numba"),
    "ours affine": (ours("affine"), "numba"),
    "skimage affine": (skimage_affine, "skimage"),
    "OpenCV affine": (opencv_affine, "cv2"),
    "OpenCV USAC_ACCURATE": (opencv_homography("USAC_ACCURATE"), "cv2"),
    "OpenCV USAC_MAGSAC": (opencv_homography("USAC_MAGSAC"), "cv2"),
    "OpenCV USAC_FAST": (opencv_homography("USAC_FAST"), "cv2"),
    "pydegensac": (pydegensac_homography, "pydegensac"),
}


def available() -> list[str]:
    """Returns the names of the estimators whose library is installed."""
    return [name for name, (_, module) in ESTIMATORS.items() if _is_installed(module)]


def estimator(name: str) -> Estimator:
    """Returns an estimator by name.

    Raises:
      InputError: an unknown name, or its library is not installed.
    """
    require_choice("estimator", name, ESTIMATORS)
    function, module = ESTIMATORS[name]
    if not _is_installed(module):
        raise _missing(module, name)
    return function


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise _missing(module, module) from None


def _missing(module: str, estimator: str) -> Exception:
    return invalid(
        f"The Python package that holds {module!r} must be installed for this comparison.",
        hint='Run: pip install "delf_tf[peers]".',
        estimator=estimator,
    )


def _complete(transform: np.ndarray | None, mask: np.ndarray | None, num: int) -> Found:
    if transform is None or mask is None:
        return np.zeros((3, 3)), np.zeros(num, bool)
    return np.vstack([transform, [[0, 0, 1]]])[:3], np.asarray(mask, bool).ravel()
