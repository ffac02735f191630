"""Time, memory and agreement of the indexes of local features, for `delf_tf benchmark`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from delf_tf.benchmarks import measuring
from delf_tf.checks import require
from delf_tf.retrieval.local_codes import FACTORY, train_codes
from delf_tf.retrieval.votes import LocalIndex
from delf_tf.retrieval.words.asmk import AsmkIndex
from delf_tf.retrieval.words.word_assignment import WordAssigner

_NUM_REPEATS = 9
_NOISE = 0.6


def run(
    num_images: int = 5000,
    num_features: int = 1000,
    num_words: int = 65_536,
    dim: int = 128,
    *,
    num_queries: int = 8,
    binary: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Measures ASMK on synthetic images whose features lie around the words.

    Returns:
      Milliseconds: "query_ms" (median of whole queries, one by one), its part "assign_ms", the
      "exact_assign_ms" of comparing with every word, "batch_query_ms" (of `search`); "words_recall"
      and "max_score_change" of the assigner against the exact one; "build_s" without assignment;
      "index_mb".

    Raises:
      InputError: a number below 1.
    """
    _require_positive(
        num_images=num_images,
        num_features=num_features,
        num_words=num_words,
        dim=dim,
        num_queries=num_queries,
    )
    random = np.random.default_rng(seed)
    words = _unit(random.standard_normal((num_words, dim)))
    index = AsmkIndex(words, binary=binary)
    start = time.perf_counter()
    for number in range(num_images):
        chosen = random.integers(0, num_words, num_features)
        index.add(str(number), _around(words[chosen], random), words=chosen)
    index.scores(words[:1])
    build_s = time.perf_counter() - start
    queries = {
        f"query{number}": _around(words[random.integers(0, num_words, num_features)], random)
        for number in range(num_queries)
    }
    first = queries["query0"]
    fast, exact = WordAssigner(words), WordAssigner(words, "exact")
    found, expected = fast.nearest(first, 5), exact.nearest(first, 5)
    start = time.perf_counter()
    index.search(queries, 1)
    batch_ms = (time.perf_counter() - start) * 1e3 / num_queries
    return {
        "query_ms": _median_ms(lambda: index.scores(first)),
        "assign_ms": _median_ms(lambda: fast.nearest(first, 5)),
        "exact_assign_ms": _median_ms(lambda: exact.nearest(first, 5)),
        "batch_query_ms": batch_ms,
        "words_recall": measuring.recall(found, expected),
        "max_score_change": float(
            np.abs(index.scores(first) - index.scores(first, expected)).max()
        ),
        "build_s": build_s,
        "index_mb": index.num_bytes / 1e6,
    }


def run_local(
    num_images: int = 200,
    num_features: int = 1000,
    dim: int = 40,
    factory: str = FACTORY,
    *,
    num_probes: int = 16,
    num_neighbors: int = 60,
    num_compared: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """Measures DELF's local index on synthetic clustered features, beside faiss's own search.

    faiss searches the same codes in the way that it chooses itself, and counts no votes.

    Args:
      num_images: of the database.
      num_features: an image.
      dim: width of the features.
      factory: see `LocalIndex.train`.
      num_probes: cells a feature looks into.
      num_neighbors: neighbours a feature finds.
      num_compared: features of the query whose neighbours are compared with the exact ones.
      seed: of the data.

    Returns:
      "query_ms" for an image's votes and "faiss_ms", medians of rounds in turn, "over_faiss", the
      median of the rounds' ratios; "recall" and "faiss_recall" of the exact nearest
      `num_neighbors`; "train_s", "build_s", "index_mb".

    Raises:
      InputError: a number below 1, or a factory that does not fit.
    """
    _require_positive(
        num_images=num_images, num_features=num_features, dim=dim, num_compared=num_compared
    )
    random = np.random.default_rng(seed)
    centres = _unit(random.standard_normal((4096, dim)))

    def features() -> np.ndarray:
        return _around(centres[random.integers(0, len(centres), num_features)], random)

    start = time.perf_counter()
    num_samples = max(64, -(-100_000 // num_features))
    samples = np.concatenate([features() for _ in range(num_samples)])
    codes = train_codes(samples, factory, num_features=num_images * num_features)
    index = LocalIndex(codes, num_neighbors, num_probes)
    trained = time.perf_counter()
    exact = faiss.IndexFlatL2(dim)
    for number in range(num_images):
        rows = features()
        index.add(str(number), rows)
        exact.add(rows)
    query = features()
    index.votes(query[:1])
    built = time.perf_counter()
    compared = query[:num_compared]
    expected = exact.search(compared, min(num_neighbors, exact.ntotal))[1]
    fast = faiss.downcast_index(faiss.extract_index_ivf(codes))

    def search_by_faiss(rows: np.ndarray) -> np.ndarray:
        if not isinstance(fast, faiss.IndexIVFPQFastScan):
            return codes.search(rows, num_neighbors)[1]
        ours, fast.implem = fast.implem, 0
        found = codes.search(rows, num_neighbors)[1]
        fast.implem = ours
        return found

    rounds = [
        (_ms(lambda: index.votes(query)), _ms(lambda: search_by_faiss(query)))
        for _ in range(_NUM_REPEATS + 1)
    ][1:]
    query_ms, faiss_ms = np.median(rounds, axis=0).tolist()
    return {
        "query_ms": query_ms,
        "faiss_ms": faiss_ms,
        "over_faiss": float(np.median([mine / other for mine, other in rounds])),
        "recall": measuring.recall(index.neighbors(compared)[0], expected),
        "faiss_recall": measuring.recall(search_by_faiss(compared), expected),
        "train_s": trained - start,
        "build_s": built - trained,
        "index_mb": index.num_bytes / 1e6,
    }


def _median_ms(function: Callable[[], object]) -> float:
    function()
    return float(np.median([_ms(function) for _ in range(_NUM_REPEATS)]))


def _ms(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _around(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    noise = random.standard_normal(rows.shape, np.float32)
    return _unit(rows + noise * np.float32(_NOISE / rows.shape[1] ** 0.5))


def _require_positive(**numbers: int) -> None:
    for name, value in numbers.items():
        whole = isinstance(value, (int, np.integer)) and value >= 1
        require(whole, f"{name} must be a whole number of at least 1.", value=value)
