"""Hard negatives: by hand, against a plain search over everything, and at their edges."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.datasets.sfm120k import SfmSplit
from delf_tf.training import tuples
from delf_tf.training.tuples import TupleMiner, hardest_negatives


def _on_circle(degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=-1).astype(np.float32)


def _unit(random, *shape):
    x = random.standard_normal(shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _split(num_clusters=12, size=4):
    """Clusters of `size` images; each cluster's first image is a query of all its others."""
    clusters = np.repeat(np.arange(num_clusters) * 3 + 1, size)
    firsts = np.repeat(np.arange(num_clusters) * size, size - 1)
    others = np.setdiff1d(np.arange(num_clusters * size), firsts)
    ids = tuple(f"image{row:04d}" for row in range(len(clusters)))
    return SfmSplit(ids, clusters, firsts, others)


def _plain(queries, query_clusters, pool, pool_clusters, num):
    """The definition, one query and one image at a time."""
    rows = []
    for query, own in zip(queries.astype(np.float64), query_clusters):
        distances = np.sqrt(((pool.astype(np.float64) - query) ** 2).sum(axis=1))
        used, mine = {own}, []
        for row in np.lexsort((np.arange(len(pool)), distances)):
            if pool_clusters[row] not in used and len(mine) < num:
                used.add(pool_clusters[row])
                mine.append(row)
        rows.append(mine)
    return np.array(rows)


def test_hardest_negatives_by_hand():
    # The query stands at 0 degrees. Its own cluster and a cluster's second image are passed over.
    pool = _on_circle([1.0, 10.0, 12.0, -20.0, 90.0])
    rows, distances = hardest_negatives(_on_circle([0.0]), [7], pool, [7, 4, 4, 9, 2], 3)
    assert rows.tolist() == [[1, 3, 4]]
    expected = 2 * np.sin(np.deg2rad([5.0, 10.0, 45.0]))
    np.testing.assert_allclose(distances, [expected], rtol=1e-6)


@pytest.mark.parametrize("block_rows", [1, 7, 64, 1 << 15])
def test_hardest_negatives_equal_the_definition(block_rows, monkeypatch):
    monkeypatch.setattr(tuples, "BLOCK_QUERIES", 4)
    monkeypatch.setattr(tuples, "BLOCK_ROWS", block_rows)
    random = np.random.RandomState(3)
    pool = _unit(random, 200, 16)
    pool[50:90] = pool[10:50]  # Images stored twice, in other clusters.
    queries = np.concatenate([pool[:5], _unit(random, 8, 16)])
    query_clusters = random.randint(0, 30, 13)
    pool_clusters = random.randint(0, 30, 200)
    rows, distances = hardest_negatives(queries, query_clusters, pool, pool_clusters, 6)
    np.testing.assert_array_equal(rows, _plain(queries, query_clusters, pool, pool_clusters, 6))
    assert (np.diff(distances, axis=1) >= 0).all()


def test_no_matrix_is_larger_than_a_block(monkeypatch):
    sizes = []
    monkeypatch.setattr(tuples, "BLOCK_QUERIES", 3)
    monkeypatch.setattr(tuples, "BLOCK_ROWS", 8)
    partition = np.partition

    def seen(scores, *arguments, **options):
        sizes.append(scores.shape)
        return partition(scores, *arguments, **options)

    monkeypatch.setattr(np, "partition", seen)
    random = np.random.RandomState(0)
    pool = _unit(random, 50, 4)
    hardest_negatives(pool[:10], np.full(10, -1), pool, np.arange(50), 2)
    assert len(sizes) == 4 * 7
    assert max(shape[0] for shape in sizes) == 3
    assert max(shape[1] for shape in sizes) == 8


def test_nothing_asked_for_is_nothing():
    pool = _on_circle([0.0, 5.0])
    for queries, num in ((pool[:0], 1), (pool, 0)):
        rows, distances = hardest_negatives(queries, np.arange(len(queries)), pool, [1, 2], num)
        assert rows.shape == distances.shape == (len(queries), num)
    rows, _ = hardest_negatives(pool[:0], [], pool[:0], [], 3)
    assert rows.shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_negatives": 2}, r"num_negatives=2, num_clusters=2.*Enlarge pool_size"),
        ({"num_negatives": -1}, "num_negatives must be >= 0"),
        ({"pool": _on_circle([0.0, 5.0]) * 2}, "pool must be L2-normalised.*length=1.0"),
        ({"pool": np.eye(2, 3)}, "same width"),
        ({"queries": np.full((1, 2), np.nan)}, "queries must be finite"),
        ({"pool_clusters": [1]}, "pool_clusters must have shape"),
        ({"query_clusters": [0.5]}, "whole numbers"),
        ({"pool": _on_circle([]), "pool_clusters": []}, "num_clusters=0"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    pool = _on_circle([0.0, 5.0])
    arguments = {
        "queries": pool[:1],
        "query_clusters": [1],
        "pool": pool,
        "pool_clusters": [1, 2],
        "num_negatives": 1,
    }
    with pytest.raises(InputError, match=message):
        hardest_negatives(**{**arguments, **change})


def _describer(dim=8, seed=0):
    """Gives an image always the same descriptor, and notes what it was asked for."""
    asked = []

    def describe(images):
        asked.append(list(images))
        rows = [int(str(one)[-4:]) for one in images]
        return np.stack([_unit(np.random.RandomState(seed + row), dim) for row in rows])

    return describe, asked


def test_tuples_of_an_epoch():
    split = _split()
    miner = TupleMiner(split, num_queries=10, pool_size=40, num_negatives=3, seed=5)
    describe, asked = _describer()
    mined = miner.mine(2, describe)
    assert len(mined) == 10
    assert mined.rows.shape == (10, 5)
    np.testing.assert_array_equal(mined.rows[:, 2:], mined.negative_rows)
    known = set(zip(split.query_rows, split.positive_rows))
    drawn = list(zip(mined.query_rows, mined.positive_rows))
    assert set(drawn) <= known
    assert len(set(drawn)) == 10
    clusters = split.clusters[mined.rows]
    for row in clusters[:, 1:]:
        assert len(set(row)) == 4
    assert (clusters[:, 0] == clusters[:, 1]).all()
    assert np.isin(mined.negative_rows, miner.pool_rows(2)).all()
    assert len(asked) == 1
    assert len(set(asked[0])) == len(asked[0])
    vectors = describe(split.image_ids)
    gaps = vectors[mined.query_rows][:, None] - vectors[mined.negative_rows]
    expected = np.linalg.norm(gaps, axis=2).mean()
    assert mined.mean_negative_distance == pytest.approx(expected, rel=1e-6)


def test_draws_follow_the_seed_and_the_epoch():
    def rows(seed, epoch):
        miner = TupleMiner(_split(), num_queries=8, pool_size=30, num_negatives=2, seed=seed)
        return miner.mine(epoch, _describer()[0]).rows

    np.testing.assert_array_equal(rows(1, 4), rows(1, 4))
    assert (rows(1, 4) != rows(1, 5)).any()
    assert (rows(1, 4) != rows(2, 4)).any()
    # Of the frozen generator: the same with every numpy.
    miner = TupleMiner(_split(3, 2), num_queries=3, pool_size=4)
    expected = np.random.RandomState([0, 1, 0]).permutation(3) * 2
    assert miner.pair_rows(1)[:, 0].tolist() == expected.tolist()


def test_harder_negatives_are_nearer_than_random_ones():
    split = _split(40, 3)
    miner = TupleMiner(split, num_queries=20, pool_size=120, num_negatives=5)
    describe, _ = _describer()
    vectors = describe(split.image_ids)
    mined = miner.mine(0, describe)
    chance = np.linalg.norm(vectors[mined.query_rows][:, None] - vectors, axis=2).mean()
    assert mined.mean_negative_distance < 0.7 * chance


def test_fewer_images_than_asked_for_are_all_taken():
    miner = TupleMiner(_split(3, 2), num_queries=2000, pool_size=20000, num_negatives=0)
    assert (miner.num_queries, miner.pool_size) == (3, 6)
    mined = miner.mine(0, _describer()[0])
    assert mined.negative_rows.shape == (3, 0)
    assert np.isnan(mined.mean_negative_distance)


def test_describe_is_given_what_the_caller_names():
    describe, asked = _describer()
    split = _split(4, 2)
    names = [f"somewhere/{one}" for one in split.image_ids]
    TupleMiner(split, num_negatives=1).mine(0, describe, names)
    assert asked == [names]
    with pytest.raises(InputError, match=r"one for each.*num_images=7"):
        TupleMiner(split, num_negatives=1).mine(0, describe, names[1:])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda images: np.eye(2, dtype=np.float32), "one descriptor an image"),
        (lambda images: np.zeros(len(images)), "descriptors must have shape"),
        (lambda images: np.ones((len(images), 4)), "L2-normalised"),
        (lambda images: None, "descriptors must be a numeric array"),
    ],
)
def test_bad_descriptors_are_refused(bad, message):
    with pytest.raises(InputError, match=message):
        TupleMiner(_split(), num_negatives=1).mine(0, bad)


@pytest.mark.parametrize(
    "bad",
    [{"num_queries": 0}, {"pool_size": 0}, {"num_negatives": -1}, {"seed": -1}, {"seed": 1 << 32}],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        TupleMiner(_split(), **bad)


def test_bad_splits_and_epochs_are_refused():
    split = _split(2, 2)
    none = np.zeros(0, np.int64)
    with pytest.raises(InputError, match="must have pairs"):
        TupleMiner(SfmSplit(split.image_ids, split.clusters, none, none))
    with pytest.raises(InputError, match=r"two images of one cluster.*image0000"):
        TupleMiner(SfmSplit(split.image_ids, split.clusters, np.array([0]), np.array([2])))
    with pytest.raises(InputError, match="two images of one cluster"):
        TupleMiner(SfmSplit(split.image_ids, split.clusters, np.array([0]), np.array([0])))
    with pytest.raises(InputError, match="epoch"):
        TupleMiner(split).pair_rows(-1)
