"""The adapter to Milvus, against the exact index."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import subprocess
import sys
import types

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.retrieval.vectors import index, milvus_client, milvus_index
from delf_tf.retrieval.vectors.whitening import fit_pca
from delf_tf.types import GlobalDescriptors

INSTALLED = all(importlib.util.find_spec(name) for name in ("pymilvus", "milvus_lite"))
pymilvus = milvus_client.import_pymilvus() if INSTALLED else None
needs_milvus = pytest.mark.skipif(not INSTALLED, reason="needs delf_tf[databases]: Milvus Lite")


def _descriptors(num, first=0, dim=8):
    vectors = np.random.default_rng([first, num]).standard_normal((num, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return GlobalDescriptors(tuple(f"ä {first + i}.jpg" for i in range(num)), vectors)


def _pair(tmp_path, **kwargs):
    made = index.create_index("milvus", uri=str(tmp_path / "x.db"), **kwargs)
    return made, index.create_index("exact", **kwargs)


def _assert_same(ranking, expected):
    assert ranking.database_ids == expected.database_ids
    np.testing.assert_array_equal(ranking.indices, expected.indices)
    np.testing.assert_allclose(ranking.scores, expected.scores, atol=1e-5)


@needs_milvus
def test_it_finds_what_the_exact_index_finds(tmp_path):
    whitening = fit_pca(_descriptors(50).vectors, 6)
    milvus, exact = _pair(tmp_path, whitening=whitening, fingerprint="f")
    for one in (milvus, exact):
        one.add(_descriptors(30))
        one.add(_descriptors(0, 30))
        one.add(_descriptors(20, 30))
    queries = _descriptors(7, 100)
    _assert_same(milvus.search(queries, 50), exact.search(queries, 50))
    _assert_same(
        milvus.search(_descriptors(30), 5, exclude_self=True),
        exact.search(_descriptors(30), 5, exclude_self=True),
    )
    assert milvus.search(_descriptors(0), 3).indices.shape == (0, 3)
    milvus.save(tmp_path / "x.index")
    milvus.close()

    loaded = index.load_index(tmp_path / "x.index", fingerprint="f")
    _assert_same(loaded.search(queries, 9), exact.search(queries, 9))
    for one in (loaded, exact):
        one.add(_descriptors(5, 200))
    _assert_same(loaded.search(queries, 55), exact.search(queries, 55))
    # Those five were not saved: the file's index does not see them, and adds over them.
    loaded.close()
    again = index.load_index(tmp_path / "x.index")
    assert len(again) == 50
    assert (again.search(queries, 50).indices < 50).all()
    again.add(_descriptors(5, 200))
    _assert_same(again.search(queries, 55), exact.search(queries, 55))
    again.close()


@needs_milvus
def test_faults_are_named(tmp_path, monkeypatch):
    milvus, _ = _pair(tmp_path)
    milvus.add(_descriptors(4))
    with pytest.raises(InputError, match="width"):
        milvus.search(_descriptors(1, dim=9), 1)
    with pytest.raises(InputError, match=r"1\.\.4"):
        milvus.search(_descriptors(1), 5)
    with pytest.raises(InputError, match="added once"):
        milvus.add(_descriptors(4))
    with pytest.raises(InputError, match="in the folder of its Milvus Lite file"):
        milvus.save(tmp_path / "elsewhere" / "x.index")
    milvus.save(tmp_path / "x.index")
    other, _ = _pair(tmp_path)
    with pytest.raises(InputError, match="must not exist yet"):
        other.add(_descriptors(2))
    replacing = index.create_index("milvus", uri=str(tmp_path / "x.db"), replace=True)
    # As many images of the same names, but of other features.
    replacing.add(GlobalDescriptors(_descriptors(4).ids, _descriptors(4, 7).vectors))
    with pytest.raises(InputError, match="must hold the images that the index was built of"):
        index.load_index(tmp_path / "x.index")
    replacing.close()
    milvus.close()
    (tmp_path / "moved").mkdir()
    (tmp_path / "x.index").rename(tmp_path / "moved" / "x.index")
    with pytest.raises(InputError, match="Milvus Lite file must be there"):
        index.load_index(tmp_path / "moved" / "x.index")
    monkeypatch.delenv("MILVUS_URI", raising=False)
    with pytest.raises(InputError, match="MILVUS_URI"):
        index.create_index("milvus")
    with pytest.raises(InputError, match="letters, digits"):
        index.create_index("milvus", uri="x.db", collection="a b")
    monkeypatch.setenv("MILVUS_URI", "x.db")
    with pytest.raises(InputError, match="must be an address, http"):
        index.create_index("milvus")
    monkeypatch.delenv("MILVUS_URI")
    with pytest.raises(InputError, match="float32"):
        index.create_index("milvus", uri="x.db", dtype="float16")


def _told(descriptors, **changed):
    """Contents by id, as a store tells them."""
    return {
        one: changed.get(one, one).encode().hex().ljust(32, "0")[:32] for one in descriptors.ids
    }


def _blocks(descriptors):
    """An even and an uneven part, as a store gives them."""
    for part in (slice(0, 7), slice(7, None)):
        yield descriptors.ids[part], descriptors.vectors[part]


@needs_milvus
def test_it_follows_what_comes_changes_and_goes(tmp_path, monkeypatch):
    whitening = fit_pca(_descriptors(50).vectors, 6)
    milvus, _ = _pair(tmp_path, whitening=whitening)
    before = _descriptors(30)
    milvus.add(before)
    milvus.contents = _told(before)
    milvus.save(tmp_path / "x.index")
    # Ten are gone, one has changed, five are new, and the order is another.
    vectors = np.concatenate([before.vectors[10:], _descriptors(5, 200).vectors])
    vectors[3] = _descriptors(1, 300).vectors[0]
    ids = before.ids[10:] + _descriptors(5, 200).ids
    order = np.random.RandomState(0).permutation(25)
    after = GlobalDescriptors(tuple(ids[row] for row in order), vectors[order])
    contents = _told(after, **{ids[3]: "another"})
    sent = []
    client = type(milvus._engine._client)
    upsert = client.upsert
    monkeypatch.setattr(
        client, "upsert", lambda self, name, rows: sent.extend(rows) or upsert(self, name, rows)
    )
    # Killed before its file is written, twice: what it sent is passed over and replaced.
    for _ in range(2):
        stopped = index.load_index(tmp_path / "x.index")
        stopped.follow(after.ids, contents, _blocks(after))
        stopped.close()
    sent.clear()
    follower = index.load_index(tmp_path / "x.index")
    _assert_same(follower.search(_descriptors(7, 100), 30), milvus.search(_descriptors(7, 100), 30))
    told = follower.follow(after.ids, contents, _blocks(after))
    assert str(told) == "5 added, 1 changed, 10 removed, 19 kept"
    assert len(sent) == 6
    # Killed after its file is written: what is gone is taken out when it is opened again.
    with monkeypatch.context() as killed:
        killed.setattr(type(follower), "_delete", lambda self: None)
        follower.save(tmp_path / "x.index")
    follower.close()
    exact = index.create_index("exact", whitening=whitening)
    exact.add(after)
    for _ in range(2):
        opened = index.load_index(tmp_path / "x.index")
        assert opened.contents == contents
        queries = _descriptors(7, 100)
        _assert_same(opened.search(queries, 25), exact.search(queries, 25))
        assert opened._num_rows == 25
        opened.save(tmp_path / "x.index")
        opened.close()
    # One of before finds what it knows and is still there.
    milvus.close()
    found = milvus.search(queries, 30)
    assert {found.database_ids[row] for row in found.indices.ravel() if row >= 0} == {
        *before.ids[10:]
    } - {ids[3]}
    milvus.close()


@needs_milvus
def test_a_collection_is_opened_by_its_address(tmp_path):
    from milvus_lite.server_manager import server_manager_instance

    server = server_manager_instance.start_and_get_uri(str(tmp_path / "server.db"))
    whitening = fit_pca(_descriptors(50).vectors, 6)
    built = index.create_index("milvus", uri=server, collection="c", whitening=whitening)
    database, queries = _descriptors(30), _descriptors(7, 100)
    built.add(database)
    built.close()
    ends = database.vectors[[0, -1]]
    address = server.replace("http", "milvus")
    opened = milvus_index.open_address(f"{address}/c", database.ids, ends, whitening=whitening)
    exact = index.create_index("exact", whitening=whitening)
    exact.add(database)
    _assert_same(opened.search(queries, 30), exact.search(queries, 30))
    opened.close()
    bad = [
        (f"{address}/d", database.ids, ends, whitening),
        (f"{address}/c", database.ids[1:], ends, whitening),
        (f"{address}/c", (*database.ids[:-1], "other"), ends, whitening),
        (f"{address}/c", database.ids, ends[::-1], whitening),
        (f"{address}/c", database.ids, ends, None),
    ]
    for given, ids, vectors, whitens in bad:
        with pytest.raises(InputError, match="must hold the store's images"):
            milvus_index.open_address(given, ids, vectors, whitening=whitens)
    for given in ("milvus://", "other://h/c", "milvus:///c"):
        with pytest.raises(InputError, match="milvus://HOST:PORT/COLLECTION"):
            milvus_index.open_address(given, database.ids, ends)
    with pytest.raises(InputError, match="letters, digits"):
        milvus_index.open_address(f"{address}/a-b", database.ids, ends)
    server_manager_instance.release_server(str(tmp_path / "server.db"))


class Recorder:
    """A client that writes down every call, bound to the names of the real client's parameters."""

    def __init__(self, calls, **kwargs):
        self.calls = calls
        self.calls.append(("connect", kwargs))
        self.real = pymilvus.MilvusClient(**kwargs)

    def __getattr__(self, name):
        function = getattr(self.real, name)

        def call(*args, **kwargs):
            told = inspect.signature(function).bind(*args, **kwargs).arguments
            self.calls.append((name, {**told.pop("kwargs", {}), **told}))
            return function(*args, **kwargs)

        return call


@needs_milvus
def test_the_calls_keep_to_the_engines_contract(tmp_path, monkeypatch):
    for name, value in (("_MAX_RESULTS", 12), ("_RESULTS_A_CALL", 20), ("_VALUES_A_CALL", 64)):
        monkeypatch.setattr(milvus_client, name, value)
    monkeypatch.setenv("MILVUS_TOKEN", "secret")
    milvus, exact = _pair(tmp_path)
    calls = []
    engine = types.SimpleNamespace(**vars(pymilvus))
    engine.MilvusClient = functools.partial(Recorder, calls)
    milvus._engine._pymilvus = engine
    database, queries = _descriptors(30), _descriptors(7, 100)
    for one in (milvus, exact):
        one.add(database)
    _assert_same(milvus.search(queries, 10), exact.search(queries, 10))
    milvus.save(tmp_path / "x.index")
    kept = GlobalDescriptors(database.ids[15:], database.vectors[15:])
    milvus.follow(kept.ids, {}, _blocks(kept))
    milvus.save(tmp_path / "x.index")
    milvus.close()

    told = {name: [given for one, given in calls if one == name] for name, _ in calls}
    assert sorted(told) == [
        *("close", "connect", "create_collection", "create_schema", "delete", "flush"),
        *("has_collection", "prepare_index_params", "search", "upsert"),
    ]
    # A file needs no token; one for a server is no file's business.
    assert told["connect"] == [{"uri": str(tmp_path / "x.db"), "token": ""}]
    names = {"collection_name": "delf_tf"}
    sent = [given.pop("data") for given in told["upsert"]]
    assert told["upsert"] == [names] * 4
    assert [len(rows) for rows in sent] == [8, 8, 8, 6]
    assert [row["row"] for rows in sent for row in rows] == list(range(30))
    assert {tuple(row) for rows in sent for row in rows} == {("row", "id", "vector")}
    assert [len(given.pop("data")) for given in told["search"]] == [2, 2, 2, 1]
    read = {"output_fields": ["row"], "search_params": {"metric_type": "IP"}}
    read |= {"limit": 10, "filter": "row < 30", "consistency_level": "Strong"}
    assert told["search"] == [{**names, **read}] * 4
    deleted = {"ids": list(range(12))}, {"ids": [12, 13, 14]}, {"filter": "row >= 30"}
    assert told["delete"] == [{**names, **one} for one in deleted]
    assert told["flush"] == [names] * 2


@needs_milvus
def test_the_processs_log_handlers_stay_open():
    script = """
import io, logging
stream = io.StringIO()
class Handler(logging.StreamHandler):
    def close(self):
        stream.write("closed")
logging.getLogger().addHandler(Handler(stream))
from delf_tf.retrieval.vectors import index
index.create_index("milvus", uri="x.db")
assert stream.getvalue() == "", stream.getvalue()
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_pymilvus_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(InputError, match=r"delf_tf\[databases\]"):
        index.create_index("milvus", uri="x.db")
