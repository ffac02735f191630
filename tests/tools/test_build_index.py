from __future__ import annotations

import numpy as np
import pytest

from delf_tf.features.store import FeatureStore
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval.vectors import index, whitening
from delf_tf.tools import main
from tests.tools import stores


def _build(database, *arguments):
    return main.main(
        ["delf_tf", "build_index", f"--database_store={database}", *map(str, arguments)]
    )


def _search(output, *arguments):
    assert main.main(["delf_tf", "search", f"--output={output}", *map(str, arguments)]) == 0
    return ranking_file.load_ranking(output)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return stores.make_store(tmp_path_factory.mktemp("build") / "db", stores.places(30, 2))


@pytest.fixture(scope="module")
def fitted(database, tmp_path_factory):
    vectors = FeatureStore(database).global_descriptors().vectors
    path = tmp_path_factory.mktemp("build") / "whitening.npz"
    return whitening.save_whitening(path, whitening.fit_pca(vectors, 6))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--type=exact", "--dtype=float16"],
        ["--type=SQ8"],
        ["--type=IVF4,SQ8", "--set=index.num_probes=4"],
        ["--type=delf_tf.retrieval.vectors.index:ExactIndex"],
    ],
)
def test_an_index_is_searched_like_its_store(database, tmp_path, capsys, arguments):
    built = tmp_path / "x.index"
    assert _build(database, f"--output={built}", *arguments) == 0
    assert capsys.readouterr().out == f"{built}\n"
    found = _search(tmp_path / "a.npz", f"--index={built}", f"--database_store={database}")
    exact = _search(tmp_path / "b.npz", f"--database_store={database}")
    if "--dtype=float16" in arguments:
        np.testing.assert_allclose(found.scores, exact.scores, atol=2e-3)
    else:
        np.testing.assert_array_equal(found.indices, exact.indices)


def test_whitening_is_applied_to_both_sides_once(database, fitted, tmp_path):
    built = tmp_path / "x.index"
    assert _build(database, f"--output={built}", f"--whitening={fitted}") == 0
    found = _search(tmp_path / "a.npz", f"--index={built}", f"--query_store={database}")
    held = whitening.load_whitening(fitted).apply(
        FeatureStore(database).global_descriptors().vectors
    )
    np.testing.assert_allclose(found.scores, -np.sort(-(held @ held.T), axis=1), atol=1e-5)
    # Expansion works with what the index holds, and does not whiten again.
    more = ["--set=query_expansion.num_neighbors=1", "--set=query_expansion.alpha=0"]
    expanded = _search(tmp_path / "b.npz", f"--index={built}", f"--query_store={database}", *more)
    np.testing.assert_allclose(expanded.scores, found.scores, atol=1e-5)
    argv = [f"--output={tmp_path / 'y.index'}", f"--whitening={fitted}"]
    assert _build(database, *argv, "--set=extraction.global_pca.path=pca.npz") == 1


def test_codes_alone_take_their_vectors_from_the_store(database, tmp_path, capsys):
    full, small = tmp_path / "full.index", tmp_path / "small.index"
    assert _build(database, f"--output={full}", "--type=SQ8") == 0
    assert _build(database, f"--output={small}", "--type=SQ8", "--nokeep_vectors") == 0
    assert small.stat().st_size < full.stat().st_size - 60 * 16 * 3
    stored = f"--database_store={database}"
    found = _search(tmp_path / "a.npz", f"--index={small}", stored)
    exact = _search(tmp_path / "b.npz", stored)
    np.testing.assert_array_equal(found.indices, exact.indices)
    argv = [f"--index={small}", f"--query_store={database}", f"--output={tmp_path / 'c.npz'}"]
    assert main.main(["delf_tf", "search", *argv]) == 1
    assert "must hold its vectors" in capsys.readouterr().err
    assert main.main(["delf_tf", "search", *argv, "--set=index.num_rescored=0"]) == 0
    other = stores.make_store(tmp_path / "other", stores.places(2, 1))
    assert main.main(["delf_tf", "search", *argv, f"--database_store={other}"]) == 1
    assert "built of this store" in capsys.readouterr().err


@pytest.mark.parametrize("type_", ["exact", "SQ8"])
def test_images_are_added(tmp_path, type_):
    images = stores.places(9, 2)
    first = stores.make_store(tmp_path / "first", dict(list(images.items())[:7]))
    # Three of the second store's images are in the index already.
    second = stores.make_store(tmp_path / "second", dict(list(images.items())[4:]))
    whole = stores.make_store(tmp_path / "whole", images)
    grown, direct = tmp_path / "grown.index", tmp_path / "direct.index"
    assert _build(first, f"--output={grown}", f"--type={type_}") == 0
    before = grown.read_bytes()
    assert _build(second, f"--add_to={grown}", f"--output={tmp_path / 'copy.index'}") == 0
    assert grown.read_bytes() == before
    assert _build(second, f"--add_to={grown}") == 0
    assert grown.read_bytes() == (tmp_path / "copy.index").read_bytes()
    assert _build(whole, f"--output={direct}", f"--type={type_}") == 0
    assert index.load_index(grown).ids == tuple(images)
    asked = f"--query_store={whole}"
    np.testing.assert_array_equal(
        _search(tmp_path / "a.npz", f"--index={grown}", asked).indices,
        _search(tmp_path / "b.npz", f"--index={direct}", asked).indices,
    )


def test_milvus_keeps_an_index(database, tmp_path, monkeypatch, capsys):
    server_manager = pytest.importorskip("milvus_lite.server_manager")
    monkeypatch.delenv("MILVUS_URI", raising=False)
    built = tmp_path / "x.index"
    assert _build(database, f"--output={built}", "--type=milvus") == 0
    assert (tmp_path / "x.index.db").exists()
    found = _search(tmp_path / "a.npz", f"--index={built}", f"--query_store={database}")
    exact = _search(tmp_path / "b.npz", f"--query_store={database}", f"--database_store={database}")
    np.testing.assert_array_equal(found.indices, exact.indices)
    # Once more, it follows; and it is found by its address, without the file.
    assert _build(database, f"--output={built}", "--type=milvus") == 0
    address = server_manager.server_manager_instance.start_and_get_uri(f"{built}.db")
    address = address.replace("http", "milvus") + "/delf_tf"
    by_address = [f"--index={address}", f"--query_store={database}"]
    found = _search(tmp_path / "c.npz", *by_address, f"--database_store={database}")
    np.testing.assert_array_equal(found.indices, exact.indices)
    assert main.main(["delf_tf", "search", *by_address, "--output=x.npz"]) == 1
    assert "must come with the store" in capsys.readouterr().err
    argv = ["search", f"--index={built}", f"--query_store={database}", "--output=x.npz"]
    assert main.main(["delf_tf", *argv, "--set=global_rerank.num_candidates=5"]) == 1
    assert "must have the vectors" in capsys.readouterr().err


def test_damaged_and_foreign_indexes_are_refused(database, tmp_path, capsys):
    built = tmp_path / "x.index"
    assert _build(database, f"--output={built}") == 0
    raw = built.read_bytes()
    other = stores.make_store(tmp_path / "other", stores.places(2, 1), fingerprint="0" * 16)
    argv = ["search", f"--index={built}", f"--output={tmp_path / 'r.npz'}"]
    assert main.main(["delf_tf", *argv, f"--query_store={other}"]) == 1
    assert "made of the features that it is searched with" in capsys.readouterr().err
    assert _build(other, f"--add_to={built}") == 1
    for content in (raw[:-1], raw[:1000] + b"\x00\xff" + raw[1002:], b""):
        built.write_bytes(content)
        assert main.main(["delf_tf", *argv, f"--query_store={database}"]) == 1
        assert "index" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--output or --add_to must be given"),
        (["--output=THERE"], 1, "--overwrite"),
        (["--output=NEW", "--type=IVF4,PQ5x4"], 1, "faiss factory string"),
        (["--output=NEW", "--type=no.such:Class"], 1, "importable"),
        (["--output=NEW", "--type=http.server:test"], 1, "must be a VectorIndex"),
        (["--output=NEW", "--dtype=int8"], 1, "dtype must be one of"),
        (["--output=NEW", "--whitening=none.npz"], 1, "none.npz"),
        (["--output=NEW", "--type=exact", "--nokeep_vectors"], 1, "arguments of its class"),
        (["--add_to=none.index"], 1, "none.index"),
        (["--output=NEW", "extra"], 2, "flags only"),
    ],
)
def test_bad_input_is_one_line(database, tmp_path, capsys, arguments, code, message):  # noqa: PLR0917
    (tmp_path / "there").write_bytes(b"precious")
    names = {"=THERE": tmp_path / "there", "=NEW": tmp_path / "new"}
    for short, path in names.items():
        arguments = [a.replace(short, f"={path}") if a.endswith(short) else a for a in arguments]
    assert _build(database, *arguments) == code
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("delf_tf ")]
    assert len(error) == 1
    assert message in error[0]
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "there").read_bytes() == b"precious"


def test_a_store_without_images(tmp_path, capsys):
    empty = stores.make_store(tmp_path / "empty", {})
    assert _build(empty, f"--output={tmp_path / 'x'}") == 1
    assert "at least one image" in capsys.readouterr().err
