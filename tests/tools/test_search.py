from __future__ import annotations

import numpy as np
import pytest

from delf_tf.features.store import FeatureStore
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval.vectors import expansion, index, superglobal
from delf_tf.tools import main
from tests.tools import stores

EXPANSION = ["--set=query_expansion.num_neighbors=2", "--set=query_expansion.alpha=1"]
AUGMENTATION = ["--set=database_augmentation.num_neighbors=1"]
REFINEMENT = ["--set=global_rerank.num_candidates=8", "--set=global_rerank.num_neighbors=2"]


def _search(output, *arguments):
    code = main.main(["delf_tf", "search", f"--output={output}", *map(str, arguments)])
    return code, ranking_file.load_ranking(output) if code == 0 else None


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return stores.make_store(tmp_path_factory.mktemp("search") / "db", stores.places(6, 3))


@pytest.fixture(scope="module")
def queries(tmp_path_factory):
    images = stores.places(6, 1, first_view=9)
    return stores.make_store(tmp_path_factory.mktemp("search") / "queries", images)


def _exact(database):
    made = index.ExactIndex()
    made.add(database.global_descriptors())
    return made


def test_a_store_is_searched_exactly(database, queries, tmp_path):
    stored = [f"--database_store={database}", f"--query_store={queries}"]
    _, ranking = _search(tmp_path / "r.npz", *stored, "--max_results=5")
    asked, held = (FeatureStore(p).global_descriptors() for p in (queries, database))
    products = asked.vectors @ held.vectors.T
    np.testing.assert_array_equal(ranking.indices, np.argsort(-products, axis=1)[:, :5])
    assert ranking.query_ids == asked.ids
    known = ranking_file.load_ranking_metadata(tmp_path / "r.npz")
    assert known["fingerprint"] == stores.FINGERPRINT


def test_without_queries_every_image_queries_the_rest(database, tmp_path):
    _, ranking = _search(tmp_path / "r.npz", f"--database_store={database}")
    assert ranking.query_ids == ranking.database_ids
    for row, found in enumerate(ranking.indices):
        assert sorted(found) == [other for other in range(18) if other != row]


def test_each_stage_is_what_the_library_gives(database, queries, tmp_path):
    stored = [f"--database_store={database}", f"--query_store={queries}"]
    held = FeatureStore(database).global_descriptors()
    asked = FeatureStore(queries).global_descriptors()
    plain = _exact(FeatureStore(database)).search(asked, 18)

    expanded = expansion.expand_queries(asked, plain, held.vectors, num_neighbors=2, alpha=1)
    _, ranking = _search(tmp_path / "qe.npz", *stored, *EXPANSION)
    expected = _exact(FeatureStore(database)).search(expanded, 18)
    np.testing.assert_array_equal(ranking.indices, expected.indices)
    assert (ranking.scores != plain.scores).any()

    augmented = index.ExactIndex()
    augmented.add(expansion.augment_database(held, num_neighbors=1))
    _, ranking = _search(tmp_path / "dba.npz", *stored, *AUGMENTATION)
    np.testing.assert_array_equal(ranking.indices, augmented.search(asked, 18).indices)

    refined = superglobal.rerank_global(
        plain, asked, held.vectors, num_candidates=8, num_neighbors=2
    )
    _, ranking = _search(tmp_path / "sg.npz", *stored, *REFINEMENT)
    np.testing.assert_array_equal(ranking.indices, refined.indices)
    # The head is as deep as the stage needs even if fewer results are kept.
    _, short = _search(tmp_path / "short.npz", *stored, *REFINEMENT, "--max_results=3")
    np.testing.assert_array_equal(short.indices, refined.indices[:, :3])


def test_all_stages_together_on_an_index(database, queries, tmp_path):
    config = tmp_path / "c.textproto"
    config.write_text(
        "query_expansion { num_neighbors: 2 alpha: 1 }\nglobal_rerank { num_candidates: 8 }\n"
        "database_augmentation { num_neighbors: 1 }\nindex { max_results: 7 }\n"
    )
    built = tmp_path / "db.index"
    argv = ["build_index", f"--database_store={database}", f"--output={built}"]
    assert main.main(["delf_tf", *argv, f"--config={config}"]) == 0
    asked = [f"--query_store={queries}", f"--config={config}"]
    _, of_index = _search(tmp_path / "a.npz", f"--index={built}", *asked)
    _, of_store = _search(tmp_path / "b.npz", f"--database_store={database}", *asked)
    np.testing.assert_array_equal(of_index.indices, of_store.indices)
    assert of_index.indices.shape == (6, 7)


def test_expansion_finds_what_one_view_alone_does_not(tmp_path):
    """The query sees view a, a sees b, the query does not see b: only expansion finds it."""

    def turned(degrees):
        vector = np.zeros(stores.GLOBAL_DIM, np.float32)
        vector[:2] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return stores.ImageFeatures(vector, None)

    db = stores.make_store(
        tmp_path / "db",
        {"a_0": turned(50), "b_0": turned(95), "other_0": turned(-80)},
        with_local=False,
    )
    asked = stores.make_store(tmp_path / "q", {"q": turned(0)}, with_local=False)
    stored = [f"--database_store={db}", f"--query_store={asked}"]
    _, plain = _search(tmp_path / "plain.npz", *stored)
    _, expanded = _search(tmp_path / "qe.npz", *stored, "--set=query_expansion.num_neighbors=1")
    assert plain.indices.tolist() == [[0, 2, 1]]
    assert expanded.indices.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--database_store, or --index and --query_store, must be given"),
        (["--index=x"], 2, "--database_store, or --index and --query_store"),
        (["--database_store=DB", "--set=query_expansion.neighbours=1"], 2, "num_neighbors"),
        (["--database_store=none"], 1, "none"),
        (["--database_store=DB", "--query_store=OTHER"], 1, "the same model and settings"),
        (["--index=none", "--query_store=DB"], 1, "Build it first: build_index"),
        (["--database_store=DB", "--max_results=0"], 2, "--max_results=0"),
        (["--database_store=DB", "--set=query_expansion.alpha=-1"], 1, "alpha must be 0 or more"),
        (["--database_store=DB", "--set=global_rerank.num_candidates=-1"], 1, "num_candidates"),
        (["--database_store=DB", "--set=index.type=IVF9999,Flat"], 1, "faiss factory string"),
        (["--database_store=DB", "--set=index.num_probes=0"], 1, "num_probes must be 1"),
        (["--database_store=LOCAL"], 1, "must hold global descriptors"),
    ],
)
def test_bad_input_is_one_line(database, tmp_path, capsys, arguments, code, message):  # noqa: PLR0917
    one = {"0_0": stores.place_features(0, 0)}
    names = {
        "=DB": database,
        "=OTHER": stores.make_store(tmp_path / "other", one, fingerprint="0" * 16),
        "=LOCAL": stores.make_store(tmp_path / "local", one, with_global=False),
    }
    for short, path in names.items():
        arguments = [a.replace(short, f"={path}") if a.endswith(short) else a for a in arguments]
    assert _search(tmp_path / "r.npz", *arguments)[0] == code
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("delf_tf ")]
    assert len(error) == 1
    assert message in error[0]
    assert not (tmp_path / "r.npz").exists()
