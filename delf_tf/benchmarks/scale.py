"""The whole path at growing sizes: what a stage costs for ten thousand images and for a million.

Each stage runs in a process of its own, through the functions that the tools call, so that its peak
of memory is its own. CPU seconds, of all its threads, are given too, which other processes disturb
less. Files that were just written are mostly in the system's cache.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from delf_tf.benchmarks import measuring
from delf_tf.benchmarks.collection import GROUP, Collection, names, source
from delf_tf.checks import require
from delf_tf.features.creation import create
from delf_tf.features.store import FeatureStore
from delf_tf.features.writer import writer
from delf_tf.matching.verification import verify_many
from delf_tf.pipelines import indexing, reranking, searching
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval.search import OneQuery
from delf_tf.types import Ranking

_FINGERPRINT = "benchmark"
_DATABASE, _QUERIES, _INDEX = "database", "queries", "index"
_RANKING, _RERANKED = "ranking.npz", "reranked.npz"
_GROWING = ("seconds", "cpu_seconds", "peak_mb", "disk_mb")
# Ids, headers and rankings; the rest is counted.
_OTHER_BYTES = 1000


def run(
    *,
    sizes: Sequence[int] = (10_000, 100_000, 1_000_000),
    num_queries: int = 100,
    num_candidates: int = 100,
    num_features: int = 50,
    global_dim: int = 512,
    local_dim: int = 64,
    index_type: str = "auto",
    directory: str | None = None,
    num_threads: int = 2,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes stores, builds indexes, searches and re-ranks.

    Args:
      sizes: images of the databases, one after the other.
      num_queries: new views of landmarks in them.
      num_candidates: results a query, all of them re-ranked.
      num_features: local features an image, kept in 8 bits.
      global_dim: width of global descriptors.
      local_dim: width of local descriptors.
      index_type: of the index of global descriptors.
      directory: where there is room, some 8 GB for a million images; what is written there is
        removed. None: the system's folder of temporary files.
      num_threads: that verify pairs.
      seed: of the collection.

    Returns:
      JSON-able: "rows", one a size and stage: "seconds" and "cpu_seconds" (medians
      over queries where the stage is "…, a query"), "peak_mb" of the stage's process, "disk_mb" of
      what it wrote and "precision_at_10" of its ranking; "growth", see `growth`.

    Raises:
      InputError: a count out of range, or no room.
    """
    counts = {"num_queries": num_queries, "num_features": num_features, "seed": seed + 1}
    counts |= {"num_candidates": num_candidates, "num_threads": num_threads}
    counts |= {"global_dim": global_dim, "local_dim": local_dim, "smallest size": min(sizes)}
    require(min(counts.values()) >= 1, "Counts must be 1 or more.", **counts)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="delf_tf-", dir=directory) as root:
        bytes_per_image = 8 * global_dim + num_features * (local_dim + 11) + _OTHER_BYTES
        _require_room(Path(root), max(sizes) * bytes_per_image)
        for size in sizes:
            collection = Collection(size, num_features, global_dim, local_dim, seed)
            message = _message(index_type, num_candidates)
            with tempfile.TemporaryDirectory(dir=root) as folder:
                stages = _stages(Path(folder), collection, message, num_queries, num_threads)
                for row in stages:
                    logging.info("%d images: %s", size, row)
                    rows.append({"num_images": size, **row})
    settings = {"num_queries": num_queries, "num_candidates": num_candidates}
    return {**settings, "rows": rows, "growth": growth(rows)}


def growth(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns for each stage the exponents of N by which time, memory and disk grow.

    Args:
      rows: of `run`.

    Returns:
      A row a stage with the slopes of log values over log N for _GROWING; None where fewer than
      two sizes tell.
    """
    found = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        mine = [row for row in rows if row["stage"] == stage]
        slopes = {name: _slope(mine, name) for name in _GROWING}
        found.append({"stage": stage, **slopes})
    return found


def _slope(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    points = [(row["num_images"], row[name]) for row in rows if row.get(name)]
    if len({size for size, _ in points}) < 2:
        return None
    sizes, values = np.log(np.array(points, np.float64)).T
    return float(np.polyfit(sizes, values, 1)[0])


def _message(index_type: str, num_candidates: int) -> experiment_pb2.Experiment:
    message = experiment_pb2.Experiment()
    message.extraction.use_local_features = True
    message.index.type, message.index.max_results = index_type, num_candidates
    message.rerank.num_candidates = num_candidates
    return message


def _require_room(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    require(
        free >= num_bytes,
        f"The largest size needs {num_bytes / 1e9:.1f} GB of disk.",
        hint="Give --set=directory=DIR where there is room, or smaller sizes.",
        directory=folder.parent,
        free_gb=round(free / 1e9, 1),
    )


def _stages(
    folder: Path,
    collection: Collection,
    message: experiment_pb2.Experiment,
    num_queries: int,
    num_threads: int,
) -> Iterator[dict[str, Any]]:
    """Yields a row a stage."""
    first = collection.first_query
    _alone(_write, folder / _QUERIES, collection, first, num_queries)
    row = _alone(_write, folder / _DATABASE, collection, 0, collection.num_images)
    yield {"stage": "write the store", **row, "disk_mb": _size_mb(folder / _DATABASE)}
    yield {"stage": "open the store", **_alone(_open, folder)}
    row = _alone(_build, folder, message)
    yield {"stage": "build the index", **row, "disk_mb": _size_mb(folder / _INDEX)}
    row = _alone(_search, folder, message)
    yield {"stage": "search, all queries", **row, **_judged(folder / _RANKING, collection)}
    yield {"stage": "search, a query", **_alone(_search_each, folder, message)}
    row = _alone(_rerank, folder, message, num_threads)
    yield {"stage": "re-rank, all queries", **row, **_judged(folder / _RERANKED, collection)}
    yield {"stage": "re-rank, a query", **_alone(_rerank_each, folder, message, num_threads)}


def _alone(stage: Callable[..., np.ndarray], *arguments: Any) -> dict[str, Any]:
    """Runs a stage in a new process; returns its seconds and its peak of memory."""
    return measuring.run_alone(_measured, stage, *arguments)


def _measured(stage: Callable[..., np.ndarray], *arguments: Any) -> dict[str, Any]:
    seconds, cpu_seconds = stage(*arguments).tolist()
    peak_mb = measuring.peak_memory_mb()
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mb": peak_mb}


def _now() -> np.ndarray:
    """Returns the seconds of the clock and of this process's threads, float64 [2]."""
    return np.array((time.perf_counter(), time.process_time()))


def _timed(function: Callable[..., object], *arguments: Any) -> np.ndarray:
    started = _now()
    function(*arguments)
    return _now() - started


def _median_times(function: Callable[[Any], object], items: Sequence[Any]) -> np.ndarray:
    """Returns the median times of the function over the items, after one that warms up."""
    function(items[0])
    return np.median([_timed(function, item) for item in items], axis=0)


def _write(path: Path, collection: Collection, first: int, num: int) -> np.ndarray:
    started, making = _now(), np.zeros(2)
    create(
        path,
        names(first, first + num),
        fingerprint=_FINGERPRINT,
        block_size=GROUP,
        global_dim=collection.global_dim,
        local_dim=collection.local_dim,
        local_codec="int8",
    )
    with writer(path) as shard:
        for block, ids in shard.pending():
            making_started = _now()
            features = collection.views(first + block * GROUP)[: len(ids)]
            making += _now() - making_started
            shard.write(block, ids, features, {}, {one: source(one) for one in ids})
    return _now() - started - making


def _open(folder: Path) -> np.ndarray:
    def open_store() -> None:
        store = FeatureStore(folder / _DATABASE)
        store.read(store.ids()[-1])

    return _timed(open_store)


def _build(folder: Path, message: experiment_pb2.Experiment) -> np.ndarray:
    def build() -> None:
        indexing.build(message, FeatureStore(folder / _DATABASE), folder / _INDEX)

    return _timed(build)


def _search(folder: Path, message: experiment_pb2.Experiment) -> np.ndarray:
    def search() -> None:
        database, queries = _stores(folder)
        searching.search(
            message, folder / _RANKING, index=folder / _INDEX, database=database, queries=queries
        )

    return _timed(search)


def _search_each(folder: Path, message: experiment_pb2.Experiment) -> np.ndarray:
    index = indexing.open_index(message, folder / _INDEX, fingerprint=_FINGERPRINT)
    queries = FeatureStore(folder / _QUERIES)
    asked = [OneQuery(one, queries.read(one)) for one in queries.ids()]
    return _median_times(lambda query: index.search(query, message.index.max_results), asked)


def _rerank(folder: Path, message: experiment_pb2.Experiment, num_threads: int) -> np.ndarray:
    def rerank() -> None:
        database, queries = _stores(folder)
        reranking.rerank(
            message,
            folder / _RANKING,
            folder / _RERANKED,
            database=database,
            queries=queries,
            num_threads=num_threads,
        )

    # What an installation's first verification compiles is kept, and not counted.
    queries = FeatureStore(folder / _QUERIES)
    features = queries.read_local(queries.ids()[0])
    verify_many(features, [features], num_threads=num_threads)
    return _timed(rerank)


def _rerank_each(folder: Path, message: experiment_pb2.Experiment, num_threads: int) -> np.ndarray:
    database, queries = _stores(folder)
    read, rerank = reranking.cached_reader(database), reranking.method(message, database)
    ranking = ranking_file.load_ranking(folder / _RANKING)

    def rerank_one(row: int) -> None:
        one = Ranking(
            ranking.query_ids[row : row + 1],
            ranking.database_ids,
            ranking.indices[[row]],
            ranking.scores[[row]],
        )
        rerank(one, queries.read_local, read, num_threads=num_threads)

    return _median_times(rerank_one, range(len(ranking.query_ids)))


def _stores(folder: Path) -> tuple[FeatureStore, FeatureStore]:
    return FeatureStore(folder / _DATABASE), FeatureStore(folder / _QUERIES)


def _judged(path: Path, collection: Collection) -> dict[str, float]:
    """Returns the share of the first 10 results that show the query's landmark."""
    ranking = ranking_file.load_ranking(path)
    asked = np.array([int(one[:8]) for one in ranking.query_ids]) % collection.num_landmarks
    shown = ranking.indices[:, :10] % collection.num_landmarks
    return {"precision_at_10": float((shown == asked[:, None]).mean())}


def _size_mb(path: Path) -> float:
    files = [path] if path.is_file() else path.iterdir()
    return sum(one.stat().st_size for one in files) / 1e6
