"""The adapter to Milvus, against the exact index."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.retrieval.vectors import index
from delf_tf.retrieval.vectors.whitening import fit_pca
from delf_tf.types import GlobalDescriptors

INSTALLED = all(importlib.util.find_spec(name) for name in ("pymilvus", "milvus_lite"))
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
    with pytest.raises(InputError, match="float32"):
        index.create_index("milvus", uri="x.db", dtype="float16")


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
