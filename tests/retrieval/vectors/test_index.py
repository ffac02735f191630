"""Exact search: order, ties, limits, files."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.retrieval.index_file import write_index
from delf_tf.retrieval.rankings import cut, without_self
from delf_tf.retrieval.vectors import index as index_module
from delf_tf.retrieval.vectors import topk
from delf_tf.retrieval.vectors.index import (
    ExactIndex,
    build_index,
    load_index,
)
from delf_tf.retrieval.vectors.whitening import Whitening
from delf_tf.types import GlobalDescriptors, Ranking


def _descriptors(num, dim=16, seed=0, prefix="d"):
    vectors = np.random.default_rng(seed).standard_normal((num, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return GlobalDescriptors([f"{prefix}{row}" for row in range(num)], vectors)


def _index(*pieces, **kwargs):
    index = ExactIndex(**kwargs)
    for piece in pieces:
        index.add(piece)
    return index


def _write(folder, kind="exact", ids=("a",), **changed):
    """Writes a file with one vector of width 4, whatever its header says."""
    honest = {"dim": 4, "dtype": "float32", "already_whitened": False, "whitening": None}
    return write_index(
        folder / "a.index",
        kind,
        fingerprint="",
        ids=ids,
        arrays={"vectors": np.full((1, 4), 0.5, np.float32)},
        parameters={**honest, **changed},
    )


def _oracle(database, queries):
    scores = queries.vectors.astype(np.float64) @ database.vectors.astype(np.float64).T
    return np.argsort(-scores.astype(np.float32), axis=1, kind="stable")


def test_small_blocks_are_added_together(monkeypatch):
    monkeypatch.setattr(index_module, "_MERGED_ROWS", 4)
    whole = _descriptors(11)
    added = []
    monkeypatch.setattr(
        ExactIndex, "_add_vectors", lambda self, ids, vectors: added.append((ids, len(vectors)))
    )

    def blocks():
        for row in range(0, 11, 3):
            yield whole.ids[row : row + 3], whole.vectors[row : row + 3]

    index = build_index(blocks, "exact", num_images=11)
    assert added == [(whole.ids[:6], 6), (whole.ids[6:], 5)]
    assert index.ids == whole.ids


def test_search_by_hand():
    database = GlobalDescriptors(["x", "y", "z"], np.array([[1, 0], [0, 1], [0.6, 0.8]]))
    ranking = _index(database).search(GlobalDescriptors(["q"], np.array([[0, 1.0]])), 3)
    assert ranking.query_ids == ("q",)
    assert ranking.database_ids == ("x", "y", "z")
    np.testing.assert_array_equal(ranking.indices, [[1, 2, 0]])
    np.testing.assert_allclose(ranking.scores, [[1, 0.8, 0]], atol=1e-7)


@pytest.mark.parametrize("k", [1, 7, 500])
@pytest.mark.parametrize("block_rows", [1, 13, 500, 10000])
def test_blocks_of_any_size_give_the_sorted_whole(k, block_rows):
    database, queries = _descriptors(500), _descriptors(9, seed=1, prefix="q")
    index = _index(database)
    rows, scores = topk.search_blocks(index._table, queries.vectors, k, block_rows)
    np.testing.assert_array_equal(rows, _oracle(database, queries)[:, :k])
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("num_queries", [1, 2, 37, 300])
@pytest.mark.parametrize("block_rows", [64, 100, 4096])
def test_equal_vectors_come_in_row_order(num_queries, block_rows):
    one = _descriptors(40, dim=100)
    copies = np.tile(one.vectors, (7, 1))
    index = _index(GlobalDescriptors([f"d{row}" for row in range(280)], copies))
    queries = _descriptors(num_queries, dim=100, seed=1)
    rows, scores = topk.search_blocks(index._table, queries.vectors, 25, block_rows)
    groups = np.append(rows, np.full((num_queries, 3), -1), axis=1).reshape(num_queries, 4, 7)
    first = groups[:, :3, :1] % 40
    np.testing.assert_array_equal(groups[:, :3], first + 40 * np.arange(7))
    assert (np.diff(scores[:, :21].reshape(num_queries, 3, 7)) == 0).all()


def test_a_database_of_one_vector_repeated():
    vectors = np.tile(_descriptors(1, dim=33).vectors, (1000, 1))
    index = _index(GlobalDescriptors([str(row) for row in range(1000)], vectors))
    ranking = index.search(_descriptors(5, dim=33, seed=2), 10)
    np.testing.assert_array_equal(ranking.indices, np.tile(np.arange(10), (5, 1)))


def test_adding_in_pieces_is_adding_at_once():
    whole, queries = _descriptors(100), _descriptors(5, seed=1)
    pieces = [
        GlobalDescriptors(whole.ids[first : first + 30], whole.vectors[first : first + 30])
        for first in range(0, 100, 30)
    ]
    one, many = _index(whole).search(queries, 20), _index(*pieces).search(queries, 20)
    np.testing.assert_array_equal(one.indices, many.indices)
    assert one.database_ids == many.database_ids


def test_half_precision_stays_near():
    database, queries = _descriptors(300, dim=64), _descriptors(20, dim=64, seed=1)
    exact = _index(database).search(queries, 10)
    half = _index(database, dtype="float16").search(queries, 10)
    np.testing.assert_allclose(half.scores, exact.scores, atol=1e-3)
    assert (half.indices[:, 0] == exact.indices[:, 0]).mean() >= 0.9


def test_every_image_queries_the_rest():
    database = _descriptors(6)
    ranking = _index(database).search(database, 6, exclude_self=True)
    for row in range(6):
        assert row not in ranking.indices[row]
        np.testing.assert_array_equal(
            np.sort(ranking.indices[row]), [-1, *np.delete(range(6), row)]
        )
    some = _index(database).search(database, 3, exclude_self=True)
    np.testing.assert_array_equal(some.indices, ranking.indices[:, :3])


@pytest.mark.parametrize("left_out", [{}, {"p": ["b", "c"], "q": ["a"]}, {"q": ["a", "b", "c"]}])
def test_images_that_are_the_query_under_another_name_are_left_out(left_out):
    vectors = np.eye(4, dtype=np.float32)[:3]
    index = ExactIndex()
    index.add(GlobalDescriptors(("a", "b", "c"), vectors))
    queries = GlobalDescriptors(("p", "q"), np.float32([[0.6, 0.8, 0, 0], [0.6, 0, 0.8, 0]]))
    whole = index.search(queries, 3)
    ranking = index.search(queries, 3, exclude_self=left_out)
    for row, query in enumerate(queries.ids):
        names = [index.ids[at] for at in whole.indices[row]]
        expected = [one for one in names if one not in left_out.get(query, ())]
        found = [index.ids[at] for at in ranking.indices[row] if at >= 0]
        assert found == expected
    assert ranking.left_out == left_out
    assert cut(ranking, 1).left_out == left_out
    # The results that are asked for are full where there are enough images.
    assert (index.search(queries, 1, exclude_self={"p": ["b", "c"]}).indices >= 0).all()


def test_images_that_are_left_out_need_not_be_there():
    ranking = Ranking(("q",), ("a", "b"), np.array([[1, 0]]), np.ones((1, 2)))
    assert without_self(ranking, {"q": ["b", "gone"]}).indices.tolist() == [[0, -1]]


def test_without_self_moves_the_others_up():
    ranking = Ranking(["b", "q"], ["a", "b", "c"], [[1, 0, 2], [2, 1, -1]], [[3, 2, 1], [9, 8, 0]])
    rest = without_self(ranking)
    np.testing.assert_array_equal(rest.indices, [[0, 2, -1], [2, 1, -1]])
    np.testing.assert_array_equal(rest.scores[0, :2], [2, 1])


def test_cut():
    ranking = Ranking(["q"], ["a", "b"], [[1, 0]], [[2, 1]])
    np.testing.assert_array_equal(cut(ranking, 1).indices, [[1]])
    assert cut(ranking, 0).indices.shape == (1, 0)
    with pytest.raises(InputError, match="k"):
        cut(ranking, -1)


def test_ids_are_checked_once_not_with_every_search():
    index = _index(_descriptors(3))
    first = index.search(_descriptors(1), 1).database_ids
    assert index.search(_descriptors(1), 1).database_ids is first
    assert cut(index.search(_descriptors(1), 2), 1).database_ids is first
    index.add(_descriptors(1, seed=4, prefix="e"))
    assert index.search(_descriptors(1), 1).database_ids == ("d0", "d1", "d2", "e0")


def test_no_queries():
    queries = GlobalDescriptors([], np.zeros((0, 16)))
    assert _index(_descriptors(3)).search(queries, 2).indices.shape == (0, 2)


@pytest.mark.parametrize("k", [0, -1, 4])
def test_k_must_lie_within_the_database(k):
    with pytest.raises(InputError, match=r"k must lie in 1\.\.3"):
        _index(_descriptors(3)).search(_descriptors(1), k)


def test_bad_input_is_refused_and_changes_nothing():
    index = _index(_descriptors(3))
    with pytest.raises(InputError, match="must hold images"):
        ExactIndex().search(_descriptors(1), 1)
    with pytest.raises(InputError, match="width, 16"):
        index.add(_descriptors(3, dim=8, prefix="e"))
    with pytest.raises(InputError, match="width, 16"):
        index.search(_descriptors(3, dim=8), 1)
    with pytest.raises(InputError, match="once"):
        index.add(_descriptors(3))
    with pytest.raises(InputError, match="float32, float16"):
        ExactIndex(dtype="float8")
    assert len(index) == 3


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_loaded_index_searches_alike_and_grows(tmp_path, dtype):
    whole, queries = _descriptors(50), _descriptors(4, seed=1)
    index = _index(whole, dtype=dtype, fingerprint="abc")
    assert index.save(tmp_path / "a.index") == tmp_path / "a.index"
    loaded = load_index(tmp_path / "a.index", fingerprint="abc")
    expected, got = index.search(queries, 9), loaded.search(queries, 9)
    np.testing.assert_array_equal(got.indices, expected.indices)
    np.testing.assert_array_equal(got.scores, expected.scores)
    more = _descriptors(5, seed=3, prefix="e")
    for one in (index, loaded):
        one.add(more)
    assert (
        loaded.save(tmp_path / "b.index").read_bytes()
        == index.save(tmp_path / "c.index").read_bytes()
    )
    assert len(load_index(tmp_path / "b.index")) == 55


def test_an_empty_index_is_kept(tmp_path):
    ExactIndex().save(tmp_path / "a.index")
    loaded = load_index(tmp_path / "a.index")
    loaded.add(_descriptors(3))
    assert len(loaded) == 3


def test_whitening_is_applied_to_both_sides_and_once(tmp_path):
    database, queries = _descriptors(30), _descriptors(3, seed=1)
    rng = np.random.default_rng(0)
    whitening = Whitening(rng.normal(0, 0.1, 16), rng.standard_normal((5, 16)), "pca")
    index = _index(database, whitening=whitening)
    index.save(tmp_path / "a.index")
    whitened = [
        GlobalDescriptors(one.ids, whitening.apply(one.vectors)) for one in (database, queries)
    ]
    expected = _index(whitened[0]).search(whitened[1], 7)
    for one in (index, load_index(tmp_path / "a.index")):
        np.testing.assert_array_equal(one.search(queries, 7).indices, expected.indices)
    with pytest.raises(InputError, match="whitened once"):
        ExactIndex(whitening=whitening, already_whitened=True)
    with pytest.raises(InputError, match="width, 16"):
        index.search(_descriptors(1, dim=5), 1)


def test_another_fingerprint_is_refused(tmp_path):
    _index(_descriptors(3), fingerprint="abc").save(tmp_path / "a.index")
    with pytest.raises(InputError, match=r"expected='xyz', fingerprint='abc'"):
        load_index(tmp_path / "a.index", fingerprint="xyz")


def test_a_damaged_file_is_refused(tmp_path):
    path = _index(_descriptors(20)).save(tmp_path / "a.index")
    whole = path.read_bytes()
    for cut_at in (0, 4, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut_at])
        with pytest.raises(InputError, match="damaged"):
            load_index(path)
    for position in range(0, len(whole), max(len(whole) // 97, 1)):
        damaged = bytearray(whole)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            load_index(path)
    with pytest.raises(InputError, match="must exist"):
        load_index(tmp_path / "none.index")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dim": 1 << 60}, "hold 'vectors'"),
        ({"dim": -1}, "hold 'vectors'"),
        ({"dim": "x"}, "parameter 'dim'"),
        ({"dtype": "object"}, "dtype|complete"),
        ({"dtype": "float16"}, "hold 'vectors' of dtype float16"),
        ({"whitening": [1]}, "hold 'mean'"),
        ({"whitening": "pca"}, "hold 'mean'"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, changed, message):
    path = _write(tmp_path, **changed)
    with pytest.raises(InputError, match=message):
        load_index(path)


@pytest.mark.parametrize("ids", [[], ["a", "b"]])
def test_vectors_of_other_images_are_refused(tmp_path, ids):
    path = _write(tmp_path, ids=ids)
    with pytest.raises(InputError, match="hold 'vectors'"):
        load_index(path)


def test_a_kind_that_is_not_in_the_table_is_refused(tmp_path):
    path = _write(tmp_path, kind="os:system")
    with pytest.raises(InputError, match="of kind exact or faiss"):
        load_index(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = _index(_descriptors(3)).save(tmp_path / "a.index")
    whole = path.read_bytes()
    index = _index(_descriptors(5))

    def broken():
        yield np.zeros((1, 16), np.float32)
        raise OSError("disk full")

    monkeypatch.setattr(index._table, "pieces", broken)
    with pytest.raises(OSError, match="disk full"):
        index.save(path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]
