"""Verification with the matching of many images at once in TensorFlow, for accelerators.

The product of descriptors, nearly all of the arithmetic, runs as one batched operation; what is
left of a pair, a tenth of a millisecond, is the compiled search of `verify`, so that the inlier
counts are the same. (GPUs that multiply float32 as TensorFloat-32 may exchange neighbours that are
equal to three digits; `tf.config.experimental.enable_tensor_float_32_execution(False)` stops it.)
TensorFlow is imported on first use.
"""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from delf_tf.checks import require
from delf_tf.matching.nearest import MatchTests, Neighbours, check_widths, select_matches
from delf_tf.matching.ransac import RansacOptions
from delf_tf.matching.threads import check_num_threads, run_all
from delf_tf.matching.verification import PreparedQuery, require_features, verify_matches
from delf_tf.types import LocalFeatures, Verification

# Images are padded to multiples of this many features, so that few shapes are traced.
_PAD = 256
_PADDING_SCORE = -1e30


def verify_batched(
    query: LocalFeatures,
    databases: Sequence[LocalFeatures],
    model: str = RansacOptions.model,
    *,
    inlier_threshold_px: float = RansacOptions.inlier_threshold_px,
    max_distance: float | None = None,
    max_ratio: float | None = None,
    mutual: bool = True,
    seed: int = 0,
    batch_size: int = 32,
    num_threads: int | None = None,
    **search: Any,
) -> list[Verification]:
    """Verifies one query against many images, matching `batch_size` of them at once.

    Arguments, results and errors are those of `verify_many`.
    """
    tests = MatchTests(max_distance, max_ratio, mutual)
    options = RansacOptions(model, inlier_threshold_px, seed=seed, **search)
    threads = check_num_threads(num_threads)
    require(batch_size >= 1, "batch_size must be at least 1.", batch_size=batch_size)
    prepared = PreparedQuery(query)
    found: list[Verification] = []
    for start in range(0, len(databases), batch_size):
        batch = databases[start : start + batch_size]
        neighbours = _neighbours(prepared, batch)
        found += run_all(
            lambda each: _verify(prepared, each[0], each[1], tests, options),
            zip(batch, neighbours),
            threads,
        )
    return found


def _verify(
    query: PreparedQuery,
    database: LocalFeatures,
    neighbours: Neighbours,
    tests: MatchTests,
    options: RansacOptions,
) -> Verification:
    if not len(query.features) or not len(database):
        return Verification.none()
    descriptors = np.ascontiguousarray(database.descriptors, np.float32)
    matches, distances = select_matches(query.packed, descriptors, neighbours, tests)
    return verify_matches(query, database, matches, distances, options)


def _neighbours(query: PreparedQuery, databases: Sequence[LocalFeatures]) -> list[Neighbours]:
    """Returns each image's nearest neighbours as `select_matches` takes them."""
    for database in databases:
        require_features("database", database)
        check_widths(query.packed.descriptors, database.descriptors)
    length = _padded(max(len(database) for database in databases))
    batch = np.zeros((len(databases), length, query.features.dim), np.float32)
    for row, database in zip(batch, databases):
        if len(database):
            row[: len(database)] = database.descriptors - query.packed.offset
    rows = np.zeros((_padded(len(query.features)), query.features.dim), np.float32)
    rows[: len(query.features)] = query.packed.descriptors - query.packed.offset
    sizes = np.array([len(database) for database in databases], np.int32)
    nearest, second, back = _compiled()(rows, np.int32(len(query.features)), batch, sizes)
    return list(zip(nearest.numpy(), second.numpy(), back.numpy()))


def _padded(num: int) -> int:
    return max(1, -(-num // _PAD)) * _PAD


@functools.lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    import tensorflow as tf  # noqa: PLC0415, the package works without it

    # Freed before the interpreter takes TensorFlow's modules apart, which would complain.
    atexit.register(_compiled.cache_clear)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.float32),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([None, None, None], tf.float32),
            tf.TensorSpec([None], tf.int32),
        ]
    )
    def nearest_neighbours(rows: Any, num_rows: Any, batch: Any, sizes: Any) -> Any:
        """Scores are -distance² / 2, as in the compiled scan; padding is below them all."""
        padding = tf.constant(_PADDING_SCORE)
        row_norms = -0.5 * tf.reduce_sum(rows * rows, axis=-1)
        norms = -0.5 * tf.reduce_sum(batch * batch, axis=-1)
        row_norms = tf.where(tf.range(tf.shape(rows)[0]) < num_rows, row_norms, padding)
        inside = tf.range(tf.shape(batch)[1])[None] < sizes[:, None]
        norms = tf.where(inside, norms, padding)
        scores = tf.einsum("nd,bmd->bnm", rows, batch)
        scores += row_norms[None, :, None] + norms[:, None, :]
        best, where = tf.math.top_k(scores, k=2)
        return where[..., 0], best[..., 1], tf.argmax(scores, axis=1, output_type=tf.int32)

    return nearest_neighbours
