"""SuperGlobal's re-ranking against its released code's outputs, and its corners."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.retrieval.vectors.superglobal import (
    neighbours_of,
    refined_scores,
    refinement_weights,
    rerank_global,
)
from delf_tf.types import GlobalDescriptors, Ranking


@pytest.fixture
def golden(golden_dir):
    with np.load(golden_dir / "global_reranking/superglobal.npz") as file:
        return dict(file)


def _golden_ranking(golden):
    num, num_queries = golden["ranks_before"].shape
    return Ranking(
        [f"q{row}" for row in range(num_queries)],
        [f"d{row}" for row in range(num)],
        golden["ranks_before"].T,
        np.take_along_axis(golden["Q"] @ golden["X"].T, golden["ranks_before"].T, axis=1),
    )


def test_the_released_ranking(golden):
    before = _golden_ranking(golden)
    queries = GlobalDescriptors(before.query_ids, golden["Q"])
    after = rerank_global(before, queries, golden["X"], num_candidates=40, num_neighbors=9)
    np.testing.assert_array_equal(after.indices, golden["ranks_after"].T)
    by_row = golden["Q"] @ golden["X"].T
    np.testing.assert_allclose(
        after.scores, np.take_along_axis(by_row, after.indices, axis=1), atol=1e-6
    )


def test_the_released_refinement(golden):
    kept = len(golden["refined_db"])
    for query, rows in enumerate(golden["ranks_before"].T[:kept, :40]):
        candidates = golden["X"][rows]
        refined = refinement_weights(candidates, 9, 0.15) @ candidates
        np.testing.assert_allclose(refined, golden["refined_db"][query], atol=1e-6)
        first = refined @ golden["Q"][query]
        np.testing.assert_allclose(first, golden["stage1_scores"][query], atol=1e-6)


def test_by_hand():
    # K = 1, β = 1; each candidate's nearest is the other, similarity .6.
    candidates = np.array([[1, 0], [0.6, 0.8]], np.float32)
    refined = np.array([[1.36, 0.48], [1.2, 0.8]]) / 1.6
    expanded = refined.max(axis=0)
    query = np.array([0, 1], np.float32)
    expected = (refined @ query + refined @ expanded) / 2
    scores = refined_scores(query, candidates, num_neighbors=1, beta=1)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_equal_candidates_keep_their_order():
    vector = np.full((5, 4), 0.5)
    ranking = Ranking(["q"], list("abcde"), [[3, 1, 4, 0, 2]], np.zeros((1, 5)))
    after = rerank_global(ranking, GlobalDescriptors(["q"], vector[:1]), vector)
    np.testing.assert_array_equal(after.indices, ranking.indices)


@pytest.mark.parametrize("row", [[-1, -1], [0, -1], [1, 0]])
def test_short_rows_and_few_candidates(row):
    vectors = np.eye(2)
    ranking = Ranking(["q"], ["a", "b"], [row], np.zeros((1, 2)))
    queries = GlobalDescriptors(["q"], [[1.0, 0]])
    after = rerank_global(ranking, queries, vectors)
    np.testing.assert_array_equal(np.sort(after.indices), np.sort(ranking.indices))
    np.testing.assert_array_equal(
        rerank_global(ranking, queries, vectors, num_candidates=0).indices, ranking.indices
    )


def test_no_queries():
    ranking = Ranking([], ["a"], np.zeros((0, 1)), np.zeros((0, 1)))
    none = GlobalDescriptors([], np.zeros((0, 2)))
    assert rerank_global(ranking, none, np.zeros((1, 2))).indices.shape == (0, 1)


def test_bad_input():
    ranking = Ranking(["q"], ["a"], [[0]], [[1]])
    queries = GlobalDescriptors(["q"], [[1.0, 0]])
    with pytest.raises(InputError, match="those of the ranking"):
        rerank_global(ranking, GlobalDescriptors(["z"], [[1.0, 0]]), np.eye(1, 2))
    with pytest.raises(InputError, match=r"shape \[1, 2\]"):
        rerank_global(ranking, queries, np.eye(2))
    with pytest.raises(InputError, match="num_candidates"):
        rerank_global(ranking, queries, np.eye(1, 2), num_candidates=-1)
    with pytest.raises(InputError, match="num_neighbors"):
        rerank_global(ranking, queries, np.eye(1, 2), num_neighbors=-1)


def test_few_neighbours_in_a_small_collection():
    sizes = (0, 384, 999, 1000, 4499, 4500, 1_000_000)
    assert [neighbours_of(size) for size in sizes] == [1, 1, 1, 2, 8, 9, 9]


def test_pairs_among_strangers_keep_their_order():
    """Two views a place: the paper's nine neighbours are strangers, the default's one is not."""
    random = np.random.default_rng(0)
    places = np.repeat(random.normal(size=(30, 32)), 2, axis=0)
    vectors = places + 0.9 * random.normal(size=(60, 32)) + 0.5
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    ids = tuple(map(str, range(60)))
    order = np.argsort(-(vectors @ vectors.T), axis=1, kind="stable")
    scores = np.take_along_axis(vectors @ vectors.T, order, axis=1)
    ranking, queries = Ranking(ids, ids, order, scores), GlobalDescriptors(ids, vectors)
    found = {}
    for count in (None, 1, 9):
        new = rerank_global(ranking, queries, vectors, num_neighbors=count).indices
        partner = np.arange(60)[:, np.newaxis] ^ 1
        found[count] = np.argmax(new == partner, axis=1).mean()
    assert found[None] == found[1]
    assert found[1] < found[9] - 1
