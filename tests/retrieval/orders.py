"""Prints, as JSON, every order that retrieval decides by sums of products, and the BLAS kernels.

A script of its own, because a process chooses its BLAS kernels when it loads them.
"""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import threadpoolctl

from delf_tf.evaluation.voting import recognize
from delf_tf.retrieval.ordering import descending
from delf_tf.retrieval.second_stage import embedding
from delf_tf.retrieval.second_stage.pair_probability import PairProbability
from delf_tf.retrieval.second_stage.scores import SCORES, Scoring, sort_heads
from delf_tf.retrieval.second_stage.verification_files import VerifiedHead
from delf_tf.retrieval.vectors.first_stage import build_first_stage, search_first_stage
from delf_tf.retrieval.vectors.whitening import fit_pca
from delf_tf.retrieval.words.asmk import AsmkIndex
from delf_tf.retrieval.words.word_assignment import WordAssigner
from delf_tf.types import GlobalDescriptors, Ranking, Verification

NUM_DISTINCT, NUM_COPIES, DIM = 40, 6, 93
STAGES = {
    "plain": {},
    "expanded": {"query_expansion": {"num_neighbors": 7, "alpha": 3.0}},
    "refined": {"global_rerank": {"num_candidates": 100, "num_neighbors": 9}},
    "both": {"query_expansion": {"num_neighbors": 3}, "global_rerank": {"num_candidates": 50}},
}


def copies() -> np.ndarray:
    """Returns float32 [240, 93] of norm 1: each of 40 vectors six times, mixed."""
    rng = np.random.default_rng(0)
    # Whole numbers: no processor's logarithm takes part in making them.
    rows = rng.integers(-50, 51, (NUM_DISTINCT, DIM)).astype(np.float64)
    rows = (rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))).astype(np.float32)
    return rows[rng.permutation(np.repeat(np.arange(NUM_DISTINCT), NUM_COPIES))]


def global_rankings() -> dict[str, list]:
    """Every kind of index with every stage around it, with and without a whitening."""
    vectors = copies()
    ids = tuple(f"d{row}" for row in range(len(vectors)))
    queries = GlobalDescriptors(tuple(f"q{row}" for row in range(8)), vectors[:8])
    pca = fit_pca(vectors, 30)
    whitenings = {"raw": None, "pca": pca}
    found = {"signs of axes": np.sign(pca.projection[:, 0]).tolist()}
    for type_, name, augmentation in (
        ("exact", "raw", None),
        ("exact", "raw", {"num_neighbors": 7}),
        ("exact", "pca", {"num_neighbors": 7}),
        ("Flat", "pca", None),
        ("SQ8", "pca", None),
    ):
        index = build_first_stage(
            lambda: [(ids, vectors)],
            type_,
            num_images=len(ids),
            database_augmentation=augmentation,
            whitening=whitenings[name],
        )
        prefix = f"{type_} {name}{' augmented' if augmentation else ''}"
        for stage, arguments in STAGES.items():
            ranking = search_first_stage(index, queries, 60, **arguments)
            found[f"{prefix} {stage}"] = ranking.indices.tolist()
        alone = index.search(GlobalDescriptors(["q0"], vectors[:1]), 60)
        found[f"{prefix} alone"] = alone.indices.tolist()
    return found


def word_rankings() -> dict[str, list]:
    """Words of descriptors that lie between centroids, and rankings by them."""
    rng = np.random.default_rng(1)
    centroids = rng.integers(-8, 9, (300, 40)).astype(np.float32)
    centroids[200:] = centroids[rng.integers(0, 200, 100)]
    images = {}
    for image in range(16):
        pairs = rng.integers(0, 200, (2, 40))
        images[f"d{image}"] = (centroids[pairs[0]] + centroids[pairs[1]]) / 3
    images.update({f"e{image}": images[f"d{image}"] for image in range(0, 16, 2)})
    unit = {name: (rows / np.float32(64)).astype(np.float32) for name, rows in images.items()}
    centroids /= np.float32(64)
    queries = {name: unit[name] for name in list(unit)[:4]}
    found = {
        "words": WordAssigner(centroids).nearest(np.concatenate(list(unit.values())), 5).tolist()
    }
    for binary in (True, False):
        for use_idf in (True, False):
            index = AsmkIndex(centroids, binary=binary, use_idf=use_idf)
            index.add_all(unit.items())
            found[f"asmk {binary} {use_idf}"] = index.search(queries).indices.tolist()
            single = [index.search({name: rows}).indices[0] for name, rows in queries.items()]
            found[f"asmk {binary} {use_idf} one by one"] = np.array(single).tolist()
    return found


def second_stage() -> dict[str, list]:
    """Heads that the sum of two scores leaves equal, and votes that are."""
    counts = [0, 5, 5, 9, 0, 20, 3, 3]
    first = np.array([0.5, 0.4, 0.4, 0.2, 0.5, 0.1, 0.1, 0.1], np.float32)
    verified = [_verified(one) for one in counts]
    rows = np.arange(8)
    ranking = Ranking(["q"], [f"d{row}" for row in rows], [rows], [first])
    learned = np.log1p(counts)
    head = VerifiedHead(rows, np.full(8, 0.3, np.float32), tuple(verified), learned)
    blending = types.SimpleNamespace(
        blend=lambda first_stage, similarity: (first_stage.astype(np.float64) + similarity) / 3
    )
    found = {}
    for score in SCORES:
        given = blending if score == "learned" else None
        scoring = Scoring(score, probability=PairProbability(1.0, 0.1), learned=given)
        sorted_by = sort_heads(ranking, [rows], [scoring(head, first)])
        found[score] = sorted_by.indices.tolist()
    rng = np.random.default_rng(2)
    similarity = rng.integers(1, 64, (20, 20)) / 64
    rows = np.append(0, np.repeat(np.arange(20), 4))
    similarity = np.maximum(similarity, similarity.T)[np.ix_(rows, rows)]
    logit = 8 * similarity[0, 1:]
    for name, order in embedding.ORDERS.items():
        found[name] = descending(order(similarity, logit)).tolist()
    scores = [[0.3, 0.1, 0.1, 0.1]]
    ranking = Ranking(["q"], list("abcd"), [[0, 1, 2, 3]], scores)
    answers = recognize(ranking, {"a": 1, "b": 2, "c": 2, "d": 2}, power=1.7)
    found["voted"] = [answers["q"][0]]
    return found


def _verified(num: int) -> Verification:
    return Verification(num, np.eye(3), np.zeros((num, 2)), np.ones(num, bool))


def all_orders() -> dict[str, list]:
    """Returns every order by its name."""
    return {**global_rankings(), **word_rankings(), **second_stage()}


if __name__ == "__main__":
    kernels = [
        one["architecture"] for one in threadpoolctl.threadpool_info() if "architecture" in one
    ]
    json.dump({"orders": all_orders(), "kernels": kernels}, sys.stdout)
