"""Indexes measured beside exact search: recall, time, memory, build time.

On synthetic vectors that cluster as views of landmarks do, or on any store's descriptors.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from delf_tf.benchmarks import measuring
from delf_tf.checks import invalid, require
from delf_tf.retrieval.vectors.faiss_index import default_factory
from delf_tf.retrieval.vectors.index import build_index
from delf_tf.retrieval.vectors.vector_index import VectorIndex
from delf_tf.retrieval.vectors.whitening import l2_normalize
from delf_tf.types import GlobalDescriptors

BLOCK_SIZE = 20_000
# As many scores of a million vectors are 256 MB.
_NUMPY_QUERIES = 64
_VIEWS_PER_LANDMARK = 50
# Exact search comes first: the others' recall is against it. NumPy's is the peer without an index.
_NUMPY = "numpy"
DEFAULT_TYPES = ("exact", _NUMPY, "Flat", "SQ8", "compressed")


def clustered_vectors(
    num: int, dim: int, *, num_landmarks: int, seed: int = 0, noise: float = 0.5
) -> Iterator[np.ndarray]:
    """Yields blocks of unit vectors, float32 [at most BLOCK_SIZE, dim], `num` in all.

    Each is a landmark's centre plus its own deviation, `noise` times as large; both have a spectrum
    that falls as 1 / sqrt(component), as network descriptors' does. The centres depend on
    `num_landmarks` and `dim` alone, so that other seeds give other views of the same landmarks.
    """
    spectrum = (np.arange(1, dim + 1) ** -0.5).astype(np.float32)
    centres = np.random.default_rng(dim).standard_normal((num_landmarks, dim), np.float32)
    rng = np.random.default_rng(seed)
    for start in range(0, num, BLOCK_SIZE):
        size = min(BLOCK_SIZE, num - start)
        deviation = noise * rng.standard_normal((size, dim), np.float32)
        landmarks = rng.integers(0, num_landmarks, size)
        yield l2_normalize(spectrum * (centres[landmarks] + deviation))


def run(
    *,
    num_images: int = 1_000_000,
    dim: int = 512,
    num_queries: int = 1000,
    k: int = 10,
    types: Sequence[str] = DEFAULT_TYPES,
    database: np.ndarray | None = None,
    queries: np.ndarray | None = None,
    repeats: int = 3,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Measures indexes one after the other on the same vectors.

    Args:
      num_images: N, of the synthetic database.
      dim: D, of the synthetic vectors.
      num_queries: Q, of the synthetic queries, searched in one batch.
      k: results a query, and the k of recall k@k.
      types: of `create_index`, or "compressed", what "auto" takes for many images, or "numpy";
        exact search is always run first, as the oracle.
      database: float32 [N, D] with unit rows instead of synthetic vectors, such as a store's; may
        be mapped.
      queries: float32 [Q, D] with unit rows, with `database`.
      repeats: searches timed; the median counts, after one that warms up.
      seed: of the synthetic vectors.
      **options: of `FaissIndex`, such as num_probes and num_rescored.

    Returns:
      JSON-able: the sizes, and for each type its recall, milliseconds a query with the
      spread of the repeats, megabytes beside the vectors, and seconds to build.

    Raises:
      InputError: as `build_index` and the searches.
    """
    require(repeats >= 1, "repeats must be 1 or more.", repeats=repeats)
    sizes = {"num_images": num_images, "dim": dim, "num_queries": num_queries}
    require(min(sizes.values()) >= 1, "Sizes must be 1 or more.", **sizes)
    if database is None:
        database, queries = _synthetic(num_images, dim, num_queries, seed)
    if queries is None:
        raise invalid("queries must come with a database.", database=database)
    asked = GlobalDescriptors(tuple(f"q{row}" for row in range(len(queries))), queries)
    table: list[dict[str, Any]] = []
    oracle: np.ndarray | None = None
    compressed = default_factory(*database.shape)
    named = [compressed if one == "compressed" else one for one in types]
    for type_ in dict.fromkeys(["exact", *named]):
        started = time.perf_counter()
        index = None
        if type_ != _NUMPY:
            index = _build(database, type_, options if type_ != "exact" else {})
        build_s = time.perf_counter() - started
        found, seconds = _timed_search(
            functools.partial(_numpy_search, database, queries, k)
            if index is None
            else functools.partial(_search, index, asked, k),
            repeats,
        )
        oracle = found if oracle is None else oracle
        table.append(
            {
                "type": type_,
                f"recall{k}@{k}": measuring.recall(found, oracle),
                "ms_per_query": 1000 * float(np.median(seconds)) / len(asked),
                "ms_spread": 1000 * (max(seconds) - min(seconds)) / len(asked),
                "megabytes": getattr(index, "num_bytes", 0) / 1e6,
                "build_s": build_s,
            }
        )
    return {
        "num_images": len(database),
        "dim": int(database.shape[1]),
        "num_queries": len(asked),
        "k": k,
        "vectors_megabytes": database.nbytes / 1e6,
        "indexes": table,
    }


def _synthetic(
    num_images: int, dim: int, num_queries: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    num_landmarks = max(num_images // _VIEWS_PER_LANDMARK, 1)
    database = np.empty((num_images, dim), np.float32)
    start = 0
    for block in clustered_vectors(num_images, dim, num_landmarks=num_landmarks, seed=seed):
        database[start : start + len(block)] = block
        start += len(block)
    views = clustered_vectors(num_queries, dim, num_landmarks=num_landmarks, seed=seed + 1)
    return database, np.concatenate([*views, np.zeros((0, dim), np.float32)])


def _build(database: np.ndarray, type_: str, options: dict[str, Any]) -> VectorIndex:
    def blocks() -> Iterator[tuple[list[str], np.ndarray]]:
        for first in range(0, len(database), BLOCK_SIZE):
            block = database[first : first + BLOCK_SIZE]
            yield [str(row) for row in range(first, first + len(block))], block

    return build_index(blocks, type_, num_images=len(database), **options)


def _search(index: VectorIndex, queries: GlobalDescriptors, k: int) -> np.ndarray:
    return index.search(queries, k).indices


def _numpy_search(database: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Returns rows [Q, k] by products with all vectors and the largest of each."""
    found = np.zeros((len(queries), k), np.int64)
    for start in range(0, len(queries), _NUMPY_QUERIES):
        scores = queries[start : start + _NUMPY_QUERIES] @ database.T
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        found[start : start + len(best)] = np.take_along_axis(best, order, axis=1)
    return found


def _timed_search(search: Callable[[], np.ndarray], repeats: int) -> tuple[np.ndarray, list[float]]:
    found = search()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        search()
        seconds.append(time.perf_counter() - started)
    return found, seconds
