"""Times verification and counts what it finds, beside other libraries, on synthetic pairs.

Every contender sees the same pairs, in turn (interleaved pair by pair), so that a busy moment of
the machine hits all; times are medians over pairs of the best of a few runs in a row, as
re-ranking runs them. The slow ones run once a pair: cold caches cost them nothing that counts.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from delf_tf.benchmarks import matching_peers
from delf_tf.benchmarks.synthetic_pairs import SyntheticPair, make_pair
from delf_tf.checks import require, require_choice
from delf_tf.matching.nearest import match
from delf_tf.matching.verification import verify, verify_many
from delf_tf.threads import default_num_threads

PRODUCT = "product"
_USAC = "OpenCV USAC_ACCURATE"
KINDS = ("affine", "homography", "none")

# A verifier takes a pair and returns its inliers as rows (query row, database row).
Verifier = Callable[[SyntheticPair], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the pairs of one part of the benchmark are like; see `make_pair`."""

    num_features: int = 1000
    true_fraction: float = 0.15
    dim: int = 40

    def __post_init__(self) -> None:
        require(
            self.dim >= 1 and 0 < self.true_fraction <= 1 <= self.num_features * self.true_fraction,
            "A setting must have descriptors and at least one true match.",
            hint="true_fraction, a share of num_features, must lie in 0..1.",
            setting=dataclasses.asdict(self),
        )


SETTINGS = (
    Setting(),
    Setting(dim=128),
    Setting(true_fraction=0.05),
    Setting(true_fraction=0.5),
    Setting(num_features=300),
    Setting(num_features=5000),
)

# A contender that takes longer is not repeated, and pairs of many features are fewer.
_REPEATED_UP_TO_S = 0.02
_FULL_COUNT_FEATURES, _MIN_PAIRS = 1000, 4


def run(
    settings: Sequence[Setting] = SETTINGS,
    *,
    num_pairs: int = 20,
    repeats: int = 3,
    threshold_px: float = 20.0,
    max_distance: float = 1.0,
    num_threads: int | None = None,
    contenders: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Runs the benchmark.

    Args:
      settings: kinds of pairs.
      num_pairs: matching pairs a setting, half affine and half homography; as many without a match.
        In proportion fewer above 1000 features.
      repeats: times each pair is verified in a row; the fastest counts. Once if that takes 20 ms.
      threshold_px: inlier threshold of all.
      max_distance: descriptor threshold of the original's path.
      num_threads: of ours; None for all processors.
      contenders: names as in a result's rows; None for all installed.

    Returns:
      JSON-able: "num_threads", "num_pairs", "threshold_px" and "rows". A row has the setting,
      `stage` ("whole pair" = matching and verification, "product" = NumPy's product of the
      descriptors and nothing else, the yardstick of a processor; "mutual" or "one-way" =
      verification alone of such putative matches), `contender`, `ms`, `ms_without_match`, `recall`
      of the true matches, `worst_recall` and `worst_false`, the largest inlier count of a pair
      without a match.
    """
    require(num_pairs >= 2, "num_pairs must be at least 2.", num_pairs=num_pairs)
    require(repeats >= 1, "repeats must be at least 1.", repeats=repeats)
    threads = num_threads or default_num_threads()
    rows = []
    for setting in settings:
        pairs = _pairs(setting, _num_pairs(setting, num_pairs))
        verifiers = _whole_pair(threshold_px, max_distance, threads)
        verifiers[PRODUCT, "NumPy"] = product_alone
        verifiers.update(_estimators(pairs, threshold_px))
        if contenders is not None:
            for one in contenders:
                require_choice("contenders", one, {name for _, name in verifiers})
            verifiers = {key: one for key, one in verifiers.items() if key[1] in contenders}
        for (stage, name), figures in _measure(verifiers, pairs, repeats).items():
            rows.append(
                {**dataclasses.asdict(setting), "stage": stage, "contender": name, **figures}
            )
        if contenders is None or "ours" in contenders:
            rows.append(
                {
                    **dataclasses.asdict(setting),
                    "stage": "100 candidates, each",
                    "contender": "ours",
                    **_head(pairs, threshold_px, threads, repeats),
                }
            )
    return {
        "num_threads": threads,
        "num_pairs": num_pairs,
        "threshold_px": threshold_px,
        "rows": rows,
    }


def original_path(pair: SyntheticPair, threshold_px: float, max_distance: float) -> np.ndarray:
    """The original DELF's verification: one-way k-d tree, distance threshold, skimage RANSAC."""
    from scipy.spatial import cKDTree  # noqa: PLC0415, only this peer needs it

    tree = cKDTree(pair.database.descriptors)
    _, nearest = tree.query(pair.query.descriptors, distance_upper_bound=max_distance)
    rows = np.flatnonzero(nearest < len(pair.database))
    matches = np.stack([rows, nearest[rows]], axis=1)
    if len(matches) <= 3:
        return matches[:0]
    return matches[matching_peers.skimage_affine(*_points(pair, matches), threshold_px, 0)[1]]


def product_alone(pair: SyntheticPair) -> np.ndarray:
    """NumPy's product of all descriptors with all; finds nothing."""
    np.matmul(pair.query.descriptors, pair.database.descriptors.T)
    return np.empty((0, 2), np.int64)


def numpy_path(pair: SyntheticPair, threshold_px: float) -> np.ndarray:
    """NumPy's product, mutual nearest neighbours of it, and OpenCV's best RANSAC."""
    cosines = pair.query.descriptors @ pair.database.descriptors.T
    nearest = cosines.argmax(axis=1)
    rows = np.flatnonzero(cosines.argmax(axis=0)[nearest] == np.arange(len(nearest)))
    matches = np.stack([rows, nearest[rows]], axis=1)
    if len(matches) <= 4:
        return matches[:0]
    return matches[matching_peers.estimator(_USAC)(*_points(pair, matches), threshold_px, 0)[1]]


def _num_pairs(setting: Setting, num_pairs: int) -> int:
    fewer = num_pairs * _FULL_COUNT_FEATURES // max(setting.num_features, _FULL_COUNT_FEATURES)
    return min(num_pairs, max(fewer, _MIN_PAIRS))


def _pairs(setting: Setting, num_pairs: int) -> dict[str, list[SyntheticPair]]:
    counts = {
        "affine": (num_pairs + 1) // 2,
        "homography": num_pairs // 2,
        "none": num_pairs,
    }
    options = dataclasses.asdict(setting)
    return {
        kind: [make_pair(seed, kind, **options) for seed in range(counts[kind])] for kind in KINDS
    }


def _whole_pair(
    threshold_px: float, max_distance: float, num_threads: int
) -> dict[tuple[str, str], Verifier]:
    def ours(pair: SyntheticPair) -> np.ndarray:
        found = verify(
            pair.query,
            pair.database,
            inlier_threshold_px=threshold_px,
            num_threads=num_threads,
        )
        return found.matches[found.inlier_mask]

    verifiers: dict[tuple[str, str], Verifier] = {("whole pair", "ours"): ours}
    if _USAC in matching_peers.available():
        verifiers["whole pair", f"NumPy, {_USAC}"] = lambda pair: numpy_path(pair, threshold_px)
    if "skimage affine" in matching_peers.available():
        verifiers["whole pair", "original"] = lambda pair: original_path(
            pair, threshold_px, max_distance
        )
    return verifiers


def _estimators(
    pairs: dict[str, list[SyntheticPair]], threshold_px: float
) -> dict[tuple[str, str], Verifier]:
    verifiers: dict[tuple[str, str], Verifier] = {}
    for stage, mutual in (("mutual", True), ("one-way", False)):
        prepared = {
            id(pair): match(pair.query, pair.database, mutual=mutual)
            for kind in KINDS
            for pair in pairs[kind]
        }
        for name in matching_peers.available():
            verifiers[stage, name] = _verifier(
                matching_peers.estimator(name), prepared, threshold_px
            )
    return verifiers


def _verifier(
    estimate: matching_peers.Estimator, prepared: dict[int, np.ndarray], threshold_px: float
) -> Verifier:
    def verifier(pair: SyntheticPair) -> np.ndarray:
        matches = prepared[id(pair)]
        if len(matches) < 5:
            return matches[:0]
        return matches[estimate(*_points(pair, matches), threshold_px, 0)[1]]

    return verifier


def _measure(
    verifiers: dict[tuple[str, str], Verifier],
    pairs: dict[str, list[SyntheticPair]],
    repeats: int,
) -> dict[tuple[str, str], dict[str, Any]]:
    times: dict[tuple[str, str], dict[bool, list[float]]] = {
        key: {True: [], False: []} for key in verifiers
    }
    recalls: dict[tuple[str, str], list[float]] = {key: [] for key in verifiers}
    falses = dict.fromkeys(verifiers, 0)
    for verifier in verifiers.values():
        verifier(pairs["affine"][0])  # Compiles, imports and fills caches.
    for kind in KINDS:
        for pair in pairs[kind]:
            for key, verifier in verifiers.items():
                seconds, inliers = _best_time(verifier, pair, repeats)
                times[key][kind != "none"].append(1e3 * seconds)
                if kind == "none":
                    falses[key] = max(falses[key], len(inliers))
                else:
                    recalls[key].append(_recall(pair, inliers))
    figures: dict[tuple[str, str], dict[str, Any]] = {}
    for key in verifiers:
        figures[key] = {
            "ms": statistics.median(times[key][True]),
            "ms_without_match": statistics.median(times[key][False]),
        }
        if key[0] != PRODUCT:
            figures[key]["recall"] = statistics.fmean(recalls[key])
            figures[key]["worst_recall"] = min(recalls[key])
            figures[key]["worst_false"] = falses[key]
    return figures


def _best_time(verifier: Verifier, pair: SyntheticPair, repeats: int) -> tuple[float, np.ndarray]:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        inliers = verifier(pair)
        best = min(best, time.perf_counter() - start)
        if best > _REPEATED_UP_TO_S:
            break
    return best, inliers


def _head(
    pairs: dict[str, list[SyntheticPair]], threshold_px: float, num_threads: int, repeats: int
) -> dict[str, float]:
    """Times one query against 100 candidates, of which one matches, as in a ranking's head."""
    query = pairs["affine"][0].query
    databases = [pair.database for pair in [pairs["affine"][0], *pairs["none"]]]
    databases = (databases * (100 // len(databases) + 1))[:100]
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        verify_many(query, databases, inlier_threshold_px=threshold_px, num_threads=num_threads)
        best = min(best, time.perf_counter() - start)
    return {"ms": 1e3 * best / len(databases)}


def _recall(pair: SyntheticPair, inliers: np.ndarray) -> float:
    truth = set(map(tuple, pair.truth.tolist()))
    return len(truth & set(map(tuple, inliers.tolist()))) / len(truth)


def _points(pair: SyntheticPair, matches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    query = pair.query.locations[matches[:, 0]][:, ::-1].astype(np.float64)
    database = pair.database.locations[matches[:, 1]][:, ::-1].astype(np.float64)
    return np.ascontiguousarray(query), np.ascontiguousarray(database)
