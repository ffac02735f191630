"""DELF's local index against loops over decoded codes, and against damaged files."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.retrieval.local_index import LocalIndex
from delf_tf.retrieval.local_quantizer import Factory, LocalQuantizer

DIM = 20
FACTORY = "IVF16,PQ10x5"


def _features(num, seed=0):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((30, DIM))
    rows = centres[random.integers(0, 30, num)] + 0.3 * random.standard_normal((num, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def quantizer():
    return LocalQuantizer.train(_features(2000), FACTORY)


def _images(num=20):
    return {f"image{i}": _features(10 + i, seed=i + 1) for i in range(num)}


def _filled(quantizer, **arguments):
    index = LocalIndex(quantizer, **{"num_neighbors": 7, "num_probes": 4, **arguments})
    index.add_all(_images().items())
    return index


def _decoded(quantizer, rows):
    """The vectors that stand for rotated rows, with their cells, one at a time."""
    rotated = rows @ quantizer.rotation
    cells, vectors = [], []
    for row in rotated:
        cell = ((row - quantizer.centroids) ** 2).sum(1).argmin()
        runs = np.split(row - quantizer.centroids[cell], len(quantizer.codebooks))
        near = [
            book[((run - book) ** 2).sum(1).argmin()]
            for run, book in zip(runs, quantizer.codebooks)
        ]
        cells.append(cell)
        vectors.append(quantizer.centroids[cell] + np.concatenate(near))
    return np.array(cells), np.array(vectors)


@pytest.mark.parametrize("num_probes", [1, 4, 16, 100])
def test_neighbours_are_those_of_the_definition(quantizer, num_probes):
    index = _filled(quantizer, num_probes=num_probes)
    cells, vectors = _decoded(quantizer, np.concatenate(list(_images().values())))
    queries = _features(30, seed=500)
    found, distances = index.neighbors(queries)
    for row, query in enumerate(queries @ quantizer.rotation):
        probed = ((query - quantizer.centroids) ** 2).sum(1).argsort()[:num_probes]
        gaps = np.where(np.isin(cells, probed), ((query - vectors) ** 2).sum(1), np.inf)
        expected = np.sort(gaps)[:7]
        np.testing.assert_allclose(distances[row], expected, rtol=1e-4, atol=1e-5)
        kept = found[row][found[row] >= 0]
        np.testing.assert_allclose(gaps[kept], expected[: len(kept)], rtol=1e-4, atol=1e-5)
        assert len(set(kept)) == len(kept) == np.isfinite(expected).sum()


@pytest.mark.parametrize(
    "factory", ["IVF2,PQ10x5", "OPQ4,IVF3,PQ4x8", "IVF2,PQ5x4", "IVF1,PQ5x6", "IVF2,PQ10x2"]
)
def test_bounds_lose_no_neighbour(factory):
    quantizer = LocalQuantizer.train(_features(1000), factory)
    database = _features(1500, seed=1)
    # A part of them equal, so that there are ties.
    database[1000:1300] = database[:300]
    cells, vectors = _decoded(quantizer, database)
    queries = np.concatenate([_features(10, seed=2), database[:10]])
    rotated = queries @ quantizer.rotation
    probed = ((rotated[:, None] - quantizer.centroids) ** 2).sum(2).argsort(1)[:, :2]
    gaps = ((rotated[:, None] - vectors) ** 2).sum(2)
    gaps[~(cells == probed[:, :, None]).any(1)] = np.inf
    for num_neighbors in (1, 60, 2000):
        index = LocalIndex(quantizer, num_neighbors=num_neighbors, num_probes=2)
        index.add_all((str(start), database[start : start + 100]) for start in range(0, 1500, 100))
        for row, (found, distances) in enumerate(zip(*index.neighbors(queries))):
            num = np.isfinite(distances).sum()
            expected = np.sort(gaps[row])[:num]
            np.testing.assert_allclose(distances[:num], expected, rtol=1e-4, atol=1e-5)
            assert num == min(num_neighbors, np.isfinite(gaps[row]).sum()) == len(set(found[:num]))
            assert (found[num:] == -1).all()
            # Equally near ones in order of adding, and no copy without what it is a copy of.
            assert (np.diff(found[:num])[np.diff(distances[:num]) == 0] > 0).all()
            copies = found[(found >= 1000) & (found < 1300)]
            assert np.isin(copies - 1000, found).all()


def test_fewer_features_than_neighbours_leave_minus_one(quantizer):
    index = LocalIndex(quantizer, num_neighbors=5, num_probes=16)
    index.add("a", _features(2))
    found, distances = index.neighbors(_features(3, seed=9))
    assert (np.sort(found, axis=1)[:, -2:] == [0, 1]).all()
    assert (found[:, 2:] == -1).all()
    assert np.isinf(distances[:, 2:]).all()
    assert (np.diff(distances[:, :2]) >= 0).all()


def test_equal_features_come_in_order_of_adding(quantizer):
    feature = _features(1)
    index = LocalIndex(quantizer, num_neighbors=4, num_probes=1)
    for number in range(10):
        index.add(str(number), feature)
    np.testing.assert_array_equal(index.neighbors(feature)[0], [[0, 1, 2, 3]])


def test_votes_count_a_feature_once_an_image(quantizer):
    first, second = _features(1), -_features(1)
    index = LocalIndex(quantizer, num_neighbors=3, num_probes=1)
    index.add("repeated", np.repeat(first, 3, axis=0))
    index.add("blank", np.zeros((0, DIM)))
    index.add("other", second)
    np.testing.assert_array_equal(index.votes(np.concatenate([first, first, second])), [2, 0, 1])
    found = index.search({"q": np.concatenate([first, first, second])}, k=3)
    np.testing.assert_array_equal(found.indices, [[0, 2, -1]])
    np.testing.assert_array_equal(found.scores[0, :2], [2, 1])


def test_an_image_finds_itself(quantizer):
    index = _filled(quantizer)
    found = index.search(_images(), k=3)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(20))
    assert index.num_features == sum(map(len, _images().values()))
    assert (
        index.num_bytes < 4 * index.num_features + 400 * (index.num_features // 64 + 16) + 16 * 17
    )


def test_rotation_keeps_distances():
    quantizer = LocalQuantizer.train(_features(1000), "OPQ5,IVF4,PQ5x4")
    rows = _features(50, seed=3)
    np.testing.assert_allclose(quantizer.rotation @ quantizer.rotation.T, np.eye(DIM), atol=1e-4)
    rotated = quantizer.rotated(rows)
    np.testing.assert_allclose(rotated @ rotated.T, rows @ rows.T, atol=1e-4)
    assert quantizer.code_bytes == 3


def test_words_that_share_low_bits_are_near_each_other():
    quantizer = LocalQuantizer.train(_features(1000), "IVF1,PQ2x7")
    for words in quantizer.codebooks:
        assert len(np.unique(words, axis=0)) == 128
        groups = words.reshape(4, 32, -1).var(axis=0).sum(axis=1)
        assert groups.mean() < 0.4 * words.var(axis=0).sum()


def test_training_is_the_same_on_every_run():
    first, second, other = (
        LocalQuantizer.train(_features(500), "IVF8,PQ4x3", seed=seed) for seed in (1, 1, 2)
    )
    assert first.fingerprint == second.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("IVF8192,PQ10x5", Factory(False, 8192, 10, 5)),
        ("OPQ8,IVF1,PQ8x8", Factory(True, 1, 8, 8)),
    ],
)
def test_factories(factory, expected):
    assert Factory.parse(factory, 40) == expected


@pytest.mark.parametrize(
    "factory",
    ["", "Flat", "IVF8", "IVF8,PQ10", "IVF0,PQ10x5", "IVF8,PQ3x5", "IVF8,PQ10x9", "IVF8,PQ0x4",
     "IVF8,PQ10x7", "OPQ5,IVF8,PQ10x5", "IVF8,PQ10x5,Refine", None],
)  # fmt: skip
def test_factories_that_do_not_fit_are_refused(factory):
    with pytest.raises(InputError, match="factory must"):
        Factory.parse(factory, 40)


def test_what_does_not_fit_is_refused(quantizer):
    index = _filled(quantizer)
    rows = _features(3)
    spoilt = np.where(np.arange(DIM) == 4, np.nan, rows)
    for bad, message in [(rows[:, 1:], "shape"), (spoilt, "finite")]:
        for call in (index.neighbors, index.votes, lambda one: index.add("new", one)):
            with pytest.raises(InputError, match=message):
                call(bad)
    with pytest.raises(InputError, match="added once"):
        index.add("image1", rows)
    with pytest.raises(InputError, match="k must be"):
        index.search({"q": rows}, k=21)
    with pytest.raises(InputError, match="must hold images"):
        LocalIndex(quantizer).search({"q": rows}, k=1)
    with pytest.raises(InputError, match="samples must be at least 32"):
        LocalQuantizer.train(_features(31), FACTORY)
    with pytest.raises(InputError, match="num_probes must be"):
        LocalIndex(quantizer, num_probes=0)
    assert index.search({}, k=2).indices.shape == (0, 2)
    nothing = index.search({"q": np.zeros((0, DIM))}, k=2)
    np.testing.assert_array_equal(nothing.indices, [[-1, -1]])


def test_the_loaded_index_finds_grows_and_saves_alike(quantizer, tmp_path):
    index = _filled(quantizer)
    index.votes(_features(1))
    loaded = LocalIndex.load(index.save(tmp_path / "a"), index.fingerprint)
    for one in (index, loaded):
        one.add("new", _features(9, seed=77))
    queries = _features(40, seed=78)
    np.testing.assert_array_equal(loaded.votes(queries), index.votes(queries))
    assert loaded.save(tmp_path / "b").read_bytes() == index.save(tmp_path / "c").read_bytes()
    with pytest.raises(InputError, match="fingerprint"):
        LocalIndex.load(tmp_path / "a", LocalIndex(quantizer).fingerprint)
    assert len(LocalIndex.load(LocalIndex(quantizer).save(tmp_path / "empty"))) == 0


def test_flipped_bytes_and_cuts_are_refused(tmp_path):
    index = LocalIndex.train(_features(40), "IVF2,PQ2x2", num_neighbors=2, num_probes=1)
    index.add_all(list(_images(3).items()))
    raw = index.save(tmp_path / "index").read_bytes()
    damaged = tmp_path / "damaged"
    for position in range(0, len(raw), 23):
        flipped = raw[:position] + bytes([raw[position] ^ 4]) + raw[position + 1 :]
        for content in (flipped, raw[:position]):
            damaged.write_bytes(content)
            with pytest.raises(InputError):
                LocalIndex.load(damaged)
