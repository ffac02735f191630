"""Approximate indexes against the exact one, files, growth, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.retrieval.index_file import write_index
from delf_tf.retrieval.vectors import index as indexes
from delf_tf.retrieval.vectors.faiss_index import FaissIndex, default_factory
from delf_tf.retrieval.vectors.index import ExactIndex, build_index, create_index, load_index
from delf_tf.retrieval.vectors.whitening import fit_pca
from delf_tf.types import GlobalDescriptors

DIM = 32


def _descriptors(num, seed=0, prefix="d", dim=DIM):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, dim))
    vectors = centres[rng.integers(0, 40, num)] + 0.4 * rng.standard_normal((num, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return GlobalDescriptors([f"{prefix}{row}" for row in range(num)], vectors)


@pytest.fixture(scope="module")
def database():
    return _descriptors(2000)


@pytest.fixture(scope="module")
def queries():
    return _descriptors(50, seed=1, prefix="q")


@pytest.fixture(scope="module")
def exact(database, queries):
    index = ExactIndex()
    index.add(database)
    return index.search(queries, 10)


def _recall(ranking, exact):
    return np.mean([np.isin(a, b).mean() for a, b in zip(exact.indices, ranking.indices)])


@pytest.mark.parametrize(
    ("factory", "least"),
    [
        ("Flat", 1),
        ("SQ8", 0.99),
        ("IVF16,PQ8", 0.95),
        ("IVF16,PQ8x4fs", 0.95),
        ("IVF16,RaBitQ", 0.95),
        ("PCAR16,IVF16,PQ8x4fs", 0.95),
    ],
)
def test_recall_against_exact_search(database, queries, exact, factory, least):
    index = FaissIndex(factory, num_probes=8)
    index.add(database)
    ranking = index.search(queries, 10)
    assert _recall(ranking, exact) >= least
    # Re-scored, and so the scores are those of the vectors and fall.
    found = np.einsum("qkd,qd->qk", database.vectors[ranking.indices], queries.vectors)
    np.testing.assert_allclose(ranking.scores, found, atol=1e-6)
    assert (np.diff(ranking.scores, axis=1) <= 0).all()


def test_equal_vectors_come_in_row_order(queries):
    some = _descriptors(100)
    index = FaissIndex("SQ8", num_rescored=300)
    index.add(GlobalDescriptors([str(row) for row in range(300)], np.tile(some.vectors, (3, 1))))
    rows = index.search(queries, 9).indices.reshape(len(queries), 3, 3)
    np.testing.assert_array_equal(rows, rows[:, :, :1] + [0, 100, 200])


@pytest.mark.parametrize("factory", ["SQ8", "PCAR32,SQ8"])
def test_without_rescoring_scores_are_near(database, queries, exact, factory):
    index = FaissIndex(factory, num_rescored=0, keep_vectors=False)
    index.add(database)
    ranking = index.search(queries, 10)
    assert (ranking.indices[:, 0] == exact.indices[:, 0]).mean() > 0.8
    np.testing.assert_allclose(ranking.scores[:, 0], exact.scores[:, 0], atol=0.03)


def test_few_probes_may_find_few_images(queries):
    index = FaissIndex("IVF16,Flat", num_probes=1)
    index.add(_descriptors(100))
    ranking = index.search(queries, 100)
    assert (ranking.indices == -1).any()
    assert (ranking.indices[:, 0] >= 0).all()


def test_the_loaded_index_searches_alike_and_grows(tmp_path, database, queries, exact):
    index = FaissIndex("IVF16,PQ8x4fs", num_probes=8, fingerprint="f")
    index.add(database)
    loaded = load_index(index.save(tmp_path / "a.index"), fingerprint="f")
    assert isinstance(loaded, FaissIndex)
    before, after = index.search(queries, 10), loaded.search(queries, 10)
    np.testing.assert_array_equal(after.indices, before.indices)
    np.testing.assert_array_equal(after.scores, before.scores)
    loaded.add(_descriptors(10, seed=5, prefix="e"))
    assert len(loaded) == 2010
    again = load_index(loaded.save(tmp_path / "b.index"))
    own = again.search(_descriptors(10, seed=5, prefix="e"), 1)
    np.testing.assert_array_equal(own.indices[:, 0], np.arange(2000, 2010))


def test_vectors_can_stay_elsewhere(tmp_path, database, queries, exact):
    index = FaissIndex("IVF16,PQ8x4fs", num_probes=8, keep_vectors=False)
    index.add(database)
    path = index.save(tmp_path / "a.index")
    # Codes of 4 bytes, rows of 8, 16 cells, and ids; the vectors would take 128 bytes each.
    assert path.stat().st_size < 2000 * 64
    loaded = load_index(path)
    with pytest.raises(InputError, match="attach"):
        loaded.search(queries, 10)
    with pytest.raises(InputError, match=r"shape \[2000, 32\]"):
        loaded.attach(database.vectors[1:])
    np.save(tmp_path / "vectors.npy", database.vectors)
    loaded.attach(np.load(tmp_path / "vectors.npy", mmap_mode="r"))
    assert _recall(loaded.search(queries, 10), exact) >= 0.95
    with pytest.raises(InputError, match="not hold vectors"):
        loaded.attach(database.vectors)


def test_an_untrained_index_is_kept(tmp_path):
    loaded = load_index(FaissIndex("SQ8").save(tmp_path / "a.index"))
    loaded.add(_descriptors(5))
    assert len(loaded) == 5


def test_whitening(database, queries):
    whitening = fit_pca(database.vectors, 16)
    index = FaissIndex("SQ8", whitening=whitening)
    index.add(database)
    plain = ExactIndex(whitening=whitening)
    plain.add(database)
    assert _recall(index.search(queries, 10), plain.search(queries, 10)) > 0.99


def test_damaged_codes_are_refused(tmp_path, database):
    index = FaissIndex("SQ8")
    index.add(database)
    path = index.save(tmp_path / "a.index")
    whole = path.read_bytes()
    for position in (len(whole) // 3, len(whole) - 3000):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="checksum"):
            load_index(path)


def test_a_file_without_codes_is_refused(tmp_path):
    parameters = {"dim": 0, "dtype": "float32", "already_whitened": False, "whitening": None}
    own = {"factory": "SQ8", "num_probes": 1, "num_rescored": 0, "keep_vectors": False}
    path = write_index(
        tmp_path / "a.index",
        "faiss",
        fingerprint="",
        ids=["a"],
        arrays={},
        parameters={**parameters, **own},
    )
    with pytest.raises(InputError, match="hold codes"):
        load_index(path)


@pytest.mark.parametrize("factory", ["nonsense", "IVF16,PQ7", "IVF5000,Flat"])
def test_factories_that_do_not_fit(database, factory):
    index = FaissIndex(factory)
    with pytest.raises(InputError, match="factory"):
        index.add(database)
    assert len(index) == 0


def test_bad_arguments(database, queries):
    with pytest.raises(InputError, match="num_probes"):
        FaissIndex("SQ8", num_probes=0)
    with pytest.raises(InputError, match="num_rescored"):
        FaissIndex("SQ8", num_rescored=-1)
    index = FaissIndex("SQ8")
    index.train(database.vectors)
    with pytest.raises(InputError, match="trained once"):
        index.train(database.vectors)
    with pytest.raises(InputError, match="must hold images"):
        index.search(queries, 1)
    with pytest.raises(InputError, match="width, 32"):
        index.add(_descriptors(3, dim=8))


@pytest.mark.parametrize(
    ("num_images", "dim", "expected"),
    [
        (1_000_000, 512, "IVF2048,PQ128x4fs"),
        (300_000, 2048, "PCAR512,IVF1024,PQ128x4fs"),
        (10, 40, "IVF16,PQ10x4fs"),
        (10, 7, "IVF16,PQ1x4fs"),
    ],
)
def test_default_factory(num_images, dim, expected):
    assert default_factory(num_images, dim) == expected


def test_create_index_chooses(monkeypatch):
    assert isinstance(create_index(), ExactIndex)
    assert create_index("SQ8", num_rescored=7).num_rescored == 7
    monkeypatch.setattr(indexes, "MAX_EXACT_IMAGES", 1000)
    assert create_index("auto", num_images=2000, dim=32).factory == "IVF64,PQ8x4fs"
    mine = create_index("delf_tf.retrieval.vectors.index:ExactIndex", dtype="float16")
    assert isinstance(mine, ExactIndex)
    with pytest.raises(InputError, match="importable"):
        create_index("no.such:Thing")
    with pytest.raises(InputError, match="arguments"):
        create_index("exact", num_probes=3)


@pytest.mark.parametrize("type_", ["exact", "IVF16,PQ8x4fs"])
def test_build_index_from_blocks(database, queries, exact, type_):
    def blocks():
        for first in range(0, 2000, 300):
            yield database.ids[first : first + 300], database.vectors[first : first + 300]

    index = build_index(blocks, type_, num_images=2000)
    assert index.ids == database.ids
    assert _recall(index.search(queries, 10), exact) >= 0.95
    with pytest.raises(InputError, match="at least one image"):
        build_index(lambda: iter(()), type_, num_images=0)


def test_training_samples_are_even(database, monkeypatch):
    monkeypatch.setattr(indexes, "MAX_TRAINING", 100)
    numbers = np.arange(1003, dtype=np.float32)[:, None]
    blocks = [((), numbers[first : first + 7]) for first in range(0, 1003, 7)]
    np.testing.assert_array_equal(indexes._sample(blocks, 1003)[:, 0], np.arange(0, 1003, 11))
