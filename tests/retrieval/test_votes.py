"""DELF's local index against loops over decoded codes, and against damaged files."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.retrieval.local_codes import FACTORY, train_codes
from delf_tf.retrieval.votes import LocalIndex, vote_weights

DIM = 20
# The default, and the form of DELF's own code.
FACTORIES = {"fast scan": "OPQ20,IVF16,PQ20x4fs", "delf": "OPQ10,IVF16,PQ10x5"}


def _features(num, seed=0):
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((30, DIM))
    rows = centres[random.integers(0, 30, num)] + 0.3 * random.standard_normal((num, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module", params=FACTORIES)
def codes(request):
    return train_codes(_features(2000), FACTORIES[request.param])


def _empty(codes, **arguments):
    return LocalIndex(faiss.clone_index(codes), **arguments)


def _images(num=20):
    return {f"image{i}": _features(10 + i, seed=i + 1) for i in range(num)}


def _filled(codes, **arguments):
    index = _empty(codes, **{"num_neighbors": 7, "num_probes": 4, **arguments})
    index.add_all(_images().items())
    return index


class _Decoder:
    """The definition, in NumPy: a rotation, cells, and a word for each run of the residual."""

    def __init__(self, codes, num_parts, num_bits):
        rotation = faiss.downcast_VectorTransform(codes.chain.at(0))
        inner = faiss.downcast_index(codes.index)
        self.rotation = faiss.vector_to_array(rotation.A).reshape(DIM, DIM).T
        self.centroids = inner.quantizer.reconstruct_n(0, inner.nlist)
        words = faiss.vector_to_array(inner.pq.centroids)
        self.words = words.reshape(num_parts, 1 << num_bits, DIM // num_parts)

    def __call__(self, rows):
        """Returns the cells of rows and the vectors that stand for them."""
        cells, vectors = [], []
        for row in rows @ self.rotation:
            cell = ((row - self.centroids) ** 2).sum(1).argmin()
            runs = np.split(row - self.centroids[cell], len(self.words))
            near = [
                book[((run - book) ** 2).sum(1).argmin()] for run, book in zip(runs, self.words)
            ]
            cells.append(cell)
            vectors.append(self.centroids[cell] + np.concatenate(near))
        return np.array(cells), np.array(vectors)

    def gaps(self, query, cells, vectors, num_probes):
        query = query @ self.rotation
        probed = ((query - self.centroids) ** 2).sum(1).argsort()[:num_probes]
        return np.where(np.isin(cells, probed), ((query - vectors) ** 2).sum(1), np.inf)


@pytest.mark.parametrize("num_probes", [1, 4, 100])
def test_neighbours_of_delfs_code_are_those_of_the_definition(num_probes):
    codes = train_codes(_features(2000), FACTORIES["delf"])
    decoder = _Decoder(codes, 10, 5)
    index = _filled(codes, num_probes=num_probes)
    cells, vectors = decoder(np.concatenate(list(_images().values())))
    queries = _features(30, seed=500)
    for query, found, distances in zip(queries, *index.neighbors(queries)):
        gaps = decoder.gaps(query, cells, vectors, num_probes)
        expected = np.sort(gaps)[:7]
        np.testing.assert_allclose(distances, expected, rtol=1e-4, atol=1e-5)
        kept = found[found >= 0]
        np.testing.assert_allclose(gaps[kept], expected[: len(kept)], rtol=1e-4, atol=1e-5)
        assert len(set(kept)) == len(kept) == np.isfinite(expected).sum()


def test_fast_scan_differs_from_the_definition_by_its_steps():
    codes = train_codes(_features(2000), FACTORIES["fast scan"])
    decoder = _Decoder(codes, 20, 4)
    index = _filled(codes)
    cells, vectors = decoder(np.concatenate(list(_images().values())))
    queries = _features(30, seed=500)
    for query, found, distances in zip(queries, *index.neighbors(queries)):
        gaps = decoder.gaps(query, cells, vectors, 4)
        # Sums of 20 table entries in steps of about .014, each half a step wrong at most.
        np.testing.assert_allclose(distances, gaps[found], atol=0.14)
        np.testing.assert_allclose(distances, np.sort(gaps)[:7], atol=0.14)
        assert len(set(found)) == 7


@pytest.mark.parametrize(("factory", "least"), [(FACTORY, 0.65), (f"{FACTORY}r", 0.85)])
def test_most_of_the_nearest_features_are_found(factory, least):
    database, queries = _features(4000, seed=1), _features(50, seed=2)
    nearest = ((queries[:, None] - database) ** 2).sum(2).argsort(axis=1)[:, :10]
    index = LocalIndex.train(database, factory, num_neighbors=10)
    index.add("all", database)
    found, _ = index.neighbors(queries)
    assert np.mean([np.isin(one, other).mean() for one, other in zip(found, nearest)]) > least


def test_cells_follow_the_number_of_features():
    for num_features, cells in ((2000, "IVF64"), (2_000_000, "IVF2048"), (10_000_000, "IVF8192")):
        samples = np.zeros((0, DIM))
        with pytest.raises(InputError, match=f"OPQ20,{cells},PQ20x4fs"):
            train_codes(samples, FACTORY, num_features=num_features)


def test_fewer_features_than_neighbours_leave_minus_one(codes):
    index = _empty(codes, num_neighbors=5, num_probes=16)
    assert (index.neighbors(_features(3))[0] == -1).all()
    index.add("a", _features(2))
    found, distances = index.neighbors(_features(3, seed=9))
    assert (np.sort(found, axis=1)[:, -2:] == [0, 1]).all()
    assert (found[:, 2:] == -1).all()
    assert np.isinf(distances[:, 2:]).all()
    assert (np.diff(distances[:, :2]) >= 0).all()


def test_equally_near_features_come_in_order_of_adding(codes):
    database = _features(1500, seed=1)
    # A part of them equal, so that there are ties.
    database[1000:1300] = database[:300]
    queries = np.concatenate([_features(10, seed=2), database[:10]])
    for num_neighbors in (1, 60, 2000):
        index = _empty(codes, num_neighbors=num_neighbors, num_probes=2)
        index.add_all((str(start), database[start : start + 100]) for start in range(0, 1500, 100))
        for found, distances in zip(*index.neighbors(queries)):
            num = np.isfinite(distances).sum()
            assert (np.diff(found[:num])[np.diff(distances[:num]) == 0] > 0).all()
            # No copy without what it is a copy of.
            copies = found[(found >= 1000) & (found < 1300)]
            assert np.isin(copies - 1000, found).all()


def test_votes_count_a_feature_once_an_image(codes):
    first, second = _features(1), -_features(1)
    index = _empty(codes, num_neighbors=3, num_probes=1)
    index.add("repeated", np.repeat(first, 3, axis=0))
    index.add("blank", np.zeros((0, DIM)))
    index.add("other", second)
    np.testing.assert_array_equal(index.votes(np.concatenate([first, first, second])), [2, 0, 1])
    found = index.search({"q": np.concatenate([first, first, second])}, k=3)
    np.testing.assert_array_equal(found.indices, [[0, 2, -1]])
    np.testing.assert_array_equal(found.scores[0, :2], [2, 1])


def test_near_votes_weigh_more_and_far_ones_nothing(codes):
    near = _filled(codes, num_neighbors=30, num_probes=16, vote_radius=0.6)
    query = _features(3, seed=3)
    features, distances = near.neighbors(query)
    ends = np.cumsum([len(one) for one in _images().values()])
    expected = np.zeros(20)
    for found, squares in zip(features, distances):
        best = {}
        for feature, square in zip(found, squares):
            if feature >= 0:
                image = int(np.searchsorted(ends, feature, side="right"))
                best[image] = min(best.get(image, np.inf), max(float(square), 0) ** 0.5 / 0.6)
        for image, share in best.items():
            if share < 1:
                expected[image] += (1 - share ** (0.459 / 0.541)) ** (0.541 / 0.459) / 3
    assert 0 < np.count_nonzero(expected) < 20
    np.testing.assert_allclose(near.votes(query), expected, atol=1e-12)
    best = np.argsort(-expected, kind="stable")[:3]
    ranking = near.search({"q": query}, k=3)
    np.testing.assert_array_equal(ranking.indices[0], best)
    np.testing.assert_allclose(ranking.scores[0], expected[best], rtol=1e-6)


def test_weights_of_votes_fall_from_one_to_zero():
    weights = vote_weights(np.array([0.0, 0.1, 0.35, 0.7, 5.0]), 0.7)
    assert weights[0] == 1
    assert (np.diff(weights[:4]) < 0).all()
    np.testing.assert_array_equal(weights[3:], 0)


def test_the_radius_is_kept(codes, tmp_path):
    index = _filled(codes, vote_radius=0.7)
    again = LocalIndex.load(index.save(tmp_path / "i"))
    assert again.vote_radius == 0.7
    assert again.fingerprint == index.fingerprint != _filled(codes).fingerprint
    with pytest.raises(InputError, match="vote_radius must be a finite number"):
        _empty(codes, vote_radius=-1.0)


def test_an_image_finds_itself(codes):
    index = _filled(codes)
    found = index.search(_images(), k=3)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(20))
    assert index.num_features == sum(map(len, _images().values()))
    assert 0 < index.num_bytes - _empty(codes).num_bytes < (20 + 8) * (index.num_features + 16 * 32)


@pytest.mark.parametrize("gone", [["image0"], ["image7", "image8"], ["image19", "image3"]])
def test_a_removed_image_leaves_nothing_behind(codes, gone, tmp_path):
    index = _filled(codes)
    index.arrange([one for one in _images() if one not in gone])
    rest = {name: rows for name, rows in _images().items() if name not in gone}
    without = _empty(codes, num_neighbors=7, num_probes=4)
    without.add_all(rest.items())
    for one in (index, without):
        one.add(gone[0], _features(12, seed=3))
    assert index.ids == without.ids == (*rest, gone[0])
    assert index.num_features == without.num_features
    queries = _features(40, seed=78)
    loaded = LocalIndex.load(index.save(tmp_path / "index"))
    np.testing.assert_array_equal(loaded.votes(queries), index.votes(queries))
    # Which of equally near features are found may differ, their distances may not.
    np.testing.assert_array_equal(index.neighbors(queries)[1], without.neighbors(queries)[1])
    everything = [_empty(codes, num_neighbors=1000, num_probes=16) for _ in range(2)]
    everything[0].add_all(_images().items())
    everything[0].arrange(list(rest))
    everything[1].add_all(rest.items())
    np.testing.assert_array_equal(everything[0].votes(queries), everything[1].votes(queries))
    with pytest.raises(InputError, match="must be in the index"):
        index.arrange([*rest, "other"])


def test_training_is_the_same_on_every_run():
    first, second = (LocalIndex.train(_features(500)) for _ in range(2))
    other = LocalIndex.train(_features(500, seed=1))
    assert first.fingerprint == second.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    "factory",
    ["", "Flat", "IVF8", "IVF8,PQ10", "IVF0,PQ10x5", "IVF8,PQ3x5", "IVF8,PQ10x9", "IVF8,PQ0x4",
     "OPQ3,IVF8,PQ10x5", "IVF8,PQ10x5,Refine", "IVF8,PQ10x5fs", None, "IVF99999999999,PQ10x5"],
)  # fmt: skip
def test_factories_that_do_not_fit_are_refused(factory):
    with pytest.raises(InputError, match="factory must"):
        train_codes(_features(100), factory)


def test_what_does_not_fit_is_refused(codes):
    index = _filled(codes)
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
        _empty(codes).search({"q": rows}, k=1)
    with pytest.raises(InputError, match="num_probes must be"):
        _empty(codes, num_probes=0)
    assert index.search({}, k=2).indices.shape == (0, 2)
    nothing = index.search({"q": np.zeros((0, DIM))}, k=2)
    np.testing.assert_array_equal(nothing.indices, [[-1, -1]])


def test_the_loaded_index_finds_grows_and_saves_alike(codes, tmp_path):
    index = _filled(codes)
    index.votes(_features(1))
    loaded = LocalIndex.load(index.save(tmp_path / "a"), index.fingerprint)
    for one in (index, loaded):
        one.add("new", _features(9, seed=77))
    queries = _features(40, seed=78)
    np.testing.assert_array_equal(loaded.votes(queries), index.votes(queries))
    assert loaded.save(tmp_path / "b").read_bytes() == index.save(tmp_path / "c").read_bytes()
    with pytest.raises(InputError, match="fingerprint"):
        LocalIndex.load(tmp_path / "a", _empty(codes).fingerprint)
    assert len(LocalIndex.load(_empty(codes).save(tmp_path / "empty"))) == 0


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


@pytest.mark.parametrize(
    "other", ["Flat", "IVF2,Flat", "PQ4x4", "L2norm,IVF2,PQ2x4", "IVF2,PQ2x4,RFlat"]
)
def test_codes_of_another_form_are_refused(other, tmp_path, monkeypatch):
    index = LocalIndex.train(_features(40), "IVF2,PQ2x2")
    foreign = faiss.index_factory(DIM, other)
    foreign.train(_features(40))
    monkeypatch.setattr(index, "_codes", foreign)
    with pytest.raises(InputError, match="inverted file of product codes"):
        LocalIndex.load(index.save(tmp_path / "index"))
