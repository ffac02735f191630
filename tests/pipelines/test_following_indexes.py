"""Indexes follow their store: whatever came, went and changed, they rank as ones built anew."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from delf_tf import config
from delf_tf.checks import InputError
from delf_tf.features.sources import Source
from delf_tf.features.store import FeatureStore, create, writer
from delf_tf.pipelines import indexing
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval.words.codebook import save_codebook
from tests.tools import stores

KINDS = {
    "exact": [],
    "faiss": ["index.type=IVF2,SQ8", "index.num_probes=2"],
    "asmk": ["index.type=asmk", "index.asmk.use_idf=true"],
    "local": [
        "index.type=local",
        "index.local.factory=IVF4,PQ4x4fs",
        "index.local.num_neighbors=2000",
        "index.local.num_probes=4",
    ],
    "local without registers": [
        "index.type=local",
        "index.local.factory=IVF4,PQ4x6",
        "index.local.num_neighbors=2000",
        "index.local.num_probes=4",
    ],
    "milvus": ["index.type=milvus"],
}
NAMES = "abcdefgh"


def _store(path, versions):
    """A store of {name: version}; a version is another content, and other features."""
    shutil.rmtree(path, ignore_errors=True)
    create(
        path,
        list(versions),
        fingerprint=stores.FINGERPRINT,
        block_size=3,
        global_dim=stores.GLOBAL_DIM,
        local_dim=stores.LOCAL_DIM,
    )
    with writer(path) as opened:
        for block, ids in opened.pending():
            made = [stores.place_features(NAMES.index(one) // 2, versions[one]) for one in ids]
            told = {
                one: Source(1, f"{NAMES.index(one) + 1:016x}{versions[one]:016x}") for one in ids
            }
            opened.write(block, ids, made, {}, told)
    return FeatureStore(path)


def _build(message, store, path, **options):
    if message.index.type == "milvus":
        options["uri"] = f"{path}.db"
    return indexing.build(message, store, path, **options)


def _message(kind, tmp_path):
    if kind == "milvus":
        pytest.importorskip("milvus_lite")
    message = experiment_pb2.Experiment()
    for one in KINDS[kind]:
        config.apply_override(message, one)
    if kind == "asmk":
        words = np.random.default_rng(0).normal(size=(8, stores.LOCAL_DIM)).astype(np.float32)
        message.index.asmk.codebook = str(save_codebook(tmp_path / "words", words))
    return message


def _ranking(message, path, store, queries):
    opened = indexing.open_index(message, path, fingerprint=store.fingerprint, database=store)
    return opened.search(queries, len(NAMES))


def _told(caplog):
    return caplog.records[-1].getMessage().rpartition(": ")[2]


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_follows_its_store(kind, tmp_path, caplog):
    caplog.set_level("INFO")
    message, path = _message(kind, tmp_path), tmp_path / "index"
    queries = _store(tmp_path / "queries", dict.fromkeys(NAMES, 7))
    random = np.random.default_rng(3)
    versions = dict.fromkeys(NAMES, 0)
    for round_number in range(6):
        store = _store(tmp_path / "store", versions)
        _build(message, store, path)
        if round_number == 0:
            shutil.copytree(path, tmp_path / "first") if path.is_dir() else None
        # Anew, with what the first one learned.
        anew = tmp_path / "anew"
        shutil.rmtree(anew, ignore_errors=True)
        if path.is_dir():
            shutil.copytree(tmp_path / "first", anew)
            (anew / "index").unlink()
        fresh = _message("exact", tmp_path) if path.is_file() else message
        target = anew if path.is_dir() else tmp_path / f"anew {round_number}"
        _build(fresh, store, target)
        got = _ranking(message, path, store, queries)
        expected = _ranking(fresh, target, store, queries)
        assert got.database_ids == expected.database_ids == store.ids()
        np.testing.assert_allclose(got.scores, expected.scores, atol=1e-6)
        if kind == "milvus":
            # It rounds equal vectors to unequal scores: any order of equals is right.
            places = np.argsort(expected.indices)
            theirs = np.take_along_axis(expected.scores, places, 1)
            scores = np.take_along_axis(theirs, got.indices, 1)
            np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
        else:
            np.testing.assert_array_equal(got.indices, expected.indices)
        chosen = sorted(random.permutation(list(NAMES))[: random.integers(3, 9)])
        versions = {one: int(random.integers(0, 2)) for one in chosen}


@pytest.mark.parametrize("kind", KINDS)
def test_it_tells_what_became_of_the_images(kind, tmp_path, caplog):
    caplog.set_level("INFO")
    message, path = _message(kind, tmp_path), tmp_path / "index"
    _build(message, _store(tmp_path / "store", dict.fromkeys(NAMES[:6], 0)), path)
    versions = {"a": 1, **dict.fromkeys("cdefgh", 0)}
    _build(message, _store(tmp_path / "store", versions), path)
    assert _told(caplog) == "2 added, 1 changed, 1 removed, 4 kept."
    _build(message, FeatureStore(tmp_path / "store"), path)
    assert _told(caplog) == "7 kept."


def test_another_kind_is_refused_and_kept(tmp_path):
    store, path = _store(tmp_path / "store", dict.fromkeys(NAMES, 0)), tmp_path / "index"
    _build(_message("exact", tmp_path), store, path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"settings of before.*overwrite"):
        _build(_message("faiss", tmp_path), store, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["asmk", "local", "local without registers"])
def test_only_images_that_are_there_are_arranged(kind, tmp_path):
    message, path = _message(kind, tmp_path), tmp_path / "index"
    store = _store(tmp_path / "store", dict.fromkeys(NAMES[:4], 0))
    _build(message, store, path)
    opened = indexing.open_index(message, path, fingerprint=store.fingerprint).index
    for ids in (["a", "a"], ["a", "z"]):
        with pytest.raises(InputError, match="each once"):
            opened.arrange(ids)
    before = opened.search([("q", store.read_local("b").descriptors)])
    opened.arrange(["d", "b", "a", "c"])
    after = opened.search([("q", store.read_local("b").descriptors)])
    named = [
        dict(zip((one.database_ids[row] for row in one.indices[0]), one.scores[0]))
        for one in (before, after)
    ]
    assert named[0] == pytest.approx(named[1])
    opened.arrange([])
    assert opened.ids == ()
