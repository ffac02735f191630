"""Orders that all pairs of a head make, and where the pairs come from."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf import matching
from delf_tf.checks import InputError
from delf_tf.retrieval.second_stage import embedding
from delf_tf.retrieval.second_stage.pair_probability import PairProbability
from delf_tf.types import LocalFeatures, Ranking, Verification

PROBABILITY = PairProbability(2.0, 2.0, -3.0, chance_inliers=0, chance_share=0)
# Query 0 shares much with 1, and 1 with 2; nothing joins 0 to 2, which is less like it than 3.
CHAIN = np.array(
    [
        [1.00, 0.95, 0.08, 0.10, 0.02],
        [0.95, 1.00, 0.95, 0.02, 0.02],
        [0.08, 0.95, 1.00, 0.02, 0.02],
        [0.10, 0.02, 0.02, 1.00, 0.02],
        [0.02, 0.02, 0.02, 0.02, 1.00],
    ]
)


def _distances(points):
    return np.linalg.norm(points[:, None] - points[None], axis=-1)


def _order(name, similarity):
    """Values of a head whose logits are those of its similarities."""
    given = np.clip(similarity[0, 1:], 1e-6, 1 - 1e-6)
    return embedding.ORDERS[name](similarity, np.log(given / (1 - given)))


def _similarity(num, seed=0):
    """Symmetric similarities of things in the plane."""
    return np.exp(-_distances(np.random.default_rng(seed).uniform(0, 1, (num, 2))))


def test_classical_scaling_finds_the_points_again():
    wanted = _distances(np.random.default_rng(0).normal(0, 1, (12, 4)))
    np.testing.assert_allclose(_distances(embedding.classical_scaling(wanted)), wanted, atol=1e-7)


def test_a_step_is_the_guttman_transform():
    random = np.random.default_rng(1)
    points = random.normal(0, 1, (6, 3))
    wanted = _distances(random.normal(0, 1, (6, 9)))
    moved = np.zeros_like(points)
    for i in range(6):
        for j in range(6):
            if i != j:
                gap = points[i] - points[j]
                moved[i] += wanted[i, j] / np.linalg.norm(gap) * gap / 6
    np.testing.assert_allclose(embedding.minimize_stress(wanted, points, 1), moved, atol=1e-12)


def test_every_step_makes_the_stress_smaller():
    wanted = 1 - CHAIN
    points = embedding.classical_scaling(wanted)
    stress = []
    for _ in range(6):
        stress.append(((_distances(points) - wanted) ** 2).sum())
        points = embedding.minimize_stress(wanted, points, 1)
    assert (np.diff(stress) < 0).all()


@pytest.mark.parametrize("name", embedding.ORDERS)
def test_who_shares_with_a_match_passes_a_stranger(name):
    values = _order(name, CHAIN)
    assert np.argsort(-values).tolist()[:3] == [0, 1, 2]
    assert np.argsort(-CHAIN[0, 1:]).tolist()[:3] == [0, 2, 1]


@pytest.mark.parametrize("name", embedding.ORDERS)
def test_values_follow_their_images(name):
    similarity = _similarity(9)
    values = _order(name, similarity)
    moved = np.append(0, 1 + np.random.default_rng(2).permutation(8))
    again = _order(name, similarity[np.ix_(moved, moved)])
    np.testing.assert_allclose(again, values[moved[1:] - 1], atol=1e-11)


@pytest.mark.parametrize("name", embedding.ORDERS)
def test_copies_are_equal_to_the_last_digits_that_count(name):
    similarity = _similarity(6)
    rows = np.array([0, 1, 2, 2, 3, 2, 4, 5])
    doubled = similarity[np.ix_(rows, rows)]
    values = _order(name, doubled)
    np.testing.assert_allclose(values[[1, 2, 4]], values[1], atol=1e-11, rtol=0)


@pytest.mark.parametrize("name", embedding.ORDERS)
@pytest.mark.parametrize("num", [0, 1])
def test_heads_of_none_or_one(name, num):
    values = _order(name, np.eye(num + 1))
    assert values.shape == (num,)
    assert np.isfinite(values).all()


def test_the_embedding_adds_to_the_logit():
    logit = np.array([2.0, -1.0, 0.0, -3.0])
    points = embedding.minimize_stress(
        1 - CHAIN, embedding.classical_scaling(1 - CHAIN), embedding.NUM_ITERATIONS
    )
    np.testing.assert_allclose(
        embedding.by_embedding(CHAIN, logit), logit - 10 * _distances(points)[0, 1:] ** 2
    )


def test_diffusion_sums_all_ways_from_the_query():
    links = CHAIN - np.eye(5)
    roots = np.sqrt(links.sum(axis=1))
    step = 0.8 * links / roots / roots[:, None]
    reached, total = np.eye(5)[0], np.zeros(5)
    for _ in range(400):
        total, reached = total + reached, step @ reached
    logit = np.array([2.0, -1.0, 0.0, -3.0])
    found = embedding.by_diffusion(CHAIN, logit)
    np.testing.assert_allclose(found, logit + np.log(total[1:]), rtol=1e-6)


def test_expansion_by_hand():
    logit = np.array([2.0, -1.0, 0.0, -3.0])
    wanted = CHAIN[0, 1:] + 0.95**2 * CHAIN[1, 1:] + 0.1**2 * CHAIN[3, 1:]
    np.testing.assert_allclose(embedding.by_expansion(CHAIN, logit, 2, 2.0), wanted)


# Images 0, 1 and 2 are views of one place that 0 and 2 do not share; 3 and 4 are strangers.
INLIERS = {(0, 1): 30, (1, 2): 30}


def _features(name):
    return LocalFeatures(np.full((1, 2), int(name[1:])), np.ones((1, 2)), np.ones(1), np.ones(1))


@pytest.fixture
def verified(monkeypatch):
    """Gives verifications by hand; returns the list of pairs that were verified."""
    calls = []

    def verify_many(query, databases, **kwargs):
        found = []
        for one in databases:
            pair = int(query.locations[0, 0]), int(one.locations[0, 0])
            calls.append(pair)
            count = INLIERS.get(pair, INLIERS.get(pair[::-1], 0))
            pairs = np.zeros((count, 2), np.int64)
            found.append(Verification(count, np.eye(3), pairs, np.ones(count, bool)))
        return found

    monkeypatch.setattr(matching, "verify_many", verify_many)
    return calls


def _own(num=5):
    rows = [[j for j in range(num) if j != i] for i in range(num)]
    ids = tuple(f"d{i}" for i in range(num))
    return Ranking(ids, ids, np.array(rows), np.full((num, num - 1), 0.5))


def test_pairs_of_the_database_are_symmetric_probabilities(verified):
    pairs = embedding.verify_database(_own(), _features, probability=PROBABILITY).toarray()
    joined = 1 / (1 + np.exp(-(1 - 3 + 2 * np.log(31))))
    alone = 1 / (1 + np.exp(2))
    expected = np.full((5, 5), alone)
    for i, j in INLIERS:
        expected[i, j] = expected[j, i] = joined
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(pairs, expected)


def test_images_that_are_no_neighbors_have_no_pair(verified):
    few = embedding.verify_database(
        _own(), _features, probability=PROBABILITY, num_neighbors=1
    ).toarray()
    # The first of every row: 1 of 0, and 0 of all others.
    expected = np.zeros((5, 5), bool)
    expected[0, 1:] = expected[1:, 0] = True
    np.testing.assert_array_equal(few > 0, expected)
    assert len(verified) == 5


def test_the_head_is_sorted_by_its_pairs_and_the_rest_stays(verified):
    pairs = embedding.verify_database(_own(6), _features, probability=PROBABILITY)
    # A query that is image 0: 3 is the first stage's best, 2 its last of the head.
    ranking = Ranking(("d0",), _own(6).database_ids, [[3, 4, 1, 2, 5]], [[0.9, 0.8, 0.7, 0.6, 0.5]])
    reranked, found = embedding.rerank(
        ranking,
        _features,
        _features,
        order=embedding.by_embedding,
        database_pairs=lambda: pairs,
        probability=PROBABILITY,
        num_candidates=4,
    )
    assert reranked.indices.tolist() == [[1, 2, 3, 4, 5]]
    np.testing.assert_allclose(reranked.scores, [[0.7, 0.6, 0.9, 0.8, 0.5]])
    assert list(found[0]) == [3, 4, 1, 2]


def test_verified_pairs_are_kept(verified, tmp_path):
    options = {"probability": PROBABILITY, "verifications_dir": tmp_path / "v", "fingerprint": "x"}
    first = embedding.verify_database(_own(), _features, **options)
    assert len(verified) == 20
    again = embedding.verify_database(_own(), _features, **options)
    assert len(verified) == 20
    assert (first != again).nnz == 0


def test_refuses_pairs_of_another_database(verified):
    pairs = embedding.verify_database(_own(4), _features, probability=PROBABILITY)
    arguments = {"order": embedding.by_diffusion, "database_pairs": lambda: pairs}
    with pytest.raises(InputError, match="pairs must be of the ranking's database"):
        embedding.rerank(_own(5), _features, _features, probability=PROBABILITY, **arguments)
    with pytest.raises(InputError, match="all of its own images"):
        embedding.verify_database(
            Ranking(("q",), ("a", "b"), [[0, 1]], [[1, 0.5]]), _features, probability=PROBABILITY
        )
