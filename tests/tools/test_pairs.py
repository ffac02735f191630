"""pairs: what COLMAP, hloc and tables are given is what was ranked and verified."""

from __future__ import annotations

import csv

import h5py
import numpy as np
import pytest
from PIL import Image

from delf_tf.checks import InputError
from delf_tf.features.store import FeatureStore
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval.second_stage import pairs
from delf_tf.retrieval.second_stage.verification_files import load_verifications
from delf_tf.tools import main
from tests.tools import stores


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store whose ids have folders, its re-ranked ranking and verifications."""
    root = tmp_path_factory.mktemp("pairs")
    images = {f"some/{name}.png": one for name, one in stores.places(4, 2).items()}
    stores.make_store(root / "store", images)
    store = f"--database_store={root / 'store'}"
    assert _run("search", store, f"--output={root / 'first.npz'}") == 0
    ranking = f"--ranking={root / 'first.npz'}"
    output = f"--output={root / 'ranking.npz'}"
    assert _run("rerank", ranking, store, output, "--num_candidates=3") == 0
    return root


def _run(*argv):
    return main.main(["delf_tf", *map(str, argv)])


def _pairs(made, output, *arguments):
    ranking = f"--ranking={made / 'ranking.npz'}"
    return _run("pairs", ranking, f"--output={output}", *arguments)


def _verified(made, *more):
    verifications = f"--verifications_dir={made / 'ranking.verifications'}"
    return [verifications, f"--database_store={made / 'store'}", "--min_inliers=10", *more]


def _expected(made):
    """The inliers of each view with the other one of its place, by (query, database)."""
    ranking = ranking_file.load_ranking(made / "ranking.npz")
    found = load_verifications(made / "ranking.verifications")
    ids = ranking.database_ids
    every = {
        (query, ids[index]): one.matches[one.inlier_mask]
        for row, query in enumerate(ranking.query_ids)
        for index, one in found[row].items()
    }
    first = [(f"some/{place}_0.png", f"some/{place}_1.png") for place in range(4)]
    assert all(len(every[pair]) >= 10 for pair in first)
    return {pair: every[pair] for pair in first}


def test_a_table_has_each_pair_once_where_it_ranks_best(made, tmp_path, capsys):
    assert _pairs(made, tmp_path / "csv", "--max_results=1") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'csv' / 'pairs.csv'}\n"
    with (tmp_path / "csv" / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["query"], row["database"], row["rank"]) for row in rows] == [
        (f"some/{place}_0.png", f"some/{place}_1.png", "1") for place in range(4)
    ]
    assert {row["num_inliers"] for row in rows} == {""}
    assert _pairs(made, tmp_path / "more", *_verified(made)) == 0
    with (tmp_path / "more" / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["num_inliers"]) for row in rows] == [len(m) for m in _expected(made).values()]


def test_hloc_reads_pairs_and_matches(made, tmp_path):
    assert _pairs(made, tmp_path / "out", "--format=hloc", *_verified(made)) == 0
    # As hloc's parsers read them: a line a pair; a group a pair, with - for / in names.
    lines = (tmp_path / "out" / "pairs.txt").read_text().splitlines()
    assert [tuple(line.split()) for line in lines] == list(_expected(made))
    store = FeatureStore(made / "store")
    with h5py.File(tmp_path / "out" / "matches.h5") as file:
        for (query, database), expected in _expected(made).items():
            group = file["/".join(name.replace("/", "-") for name in (query, database))]
            matches0, scores = group["matches0"][()], group["matching_scores0"][()]
            assert len(matches0) == len(store.read_local(query))
            rows = np.flatnonzero(matches0 != -1)
            order = np.argsort(expected[:, 0])
            np.testing.assert_array_equal(np.stack([rows, matches0[rows]], 1), expected[order])
            np.testing.assert_array_equal(scores > 0, matches0 >= 0)


def test_colmaps_text_is_its_format(made, tmp_path):
    assert _pairs(made, tmp_path / "out", "--format=colmap", *_verified(made)) == 0
    blocks = (tmp_path / "out" / "matches.txt").read_text().split("\n\n")
    assert blocks.pop() == ""
    got = {}
    for block in blocks:
        names, *rows = block.splitlines()
        got[tuple(names.split())] = [tuple(map(int, row.split())) for row in rows]
    expected = {pair: [tuple(row) for row in rows] for pair, rows in _expected(made).items()}
    assert got == expected
    assert not (tmp_path / "out" / "database.db").exists()


def test_colmaps_database_holds_keypoints_and_matches(made, tmp_path):
    import pycolmap

    photos = tmp_path / "photos"
    (photos / "some").mkdir(parents=True)
    store = FeatureStore(made / "store")
    for name in store.ids():
        Image.new("RGB", (600, 500)).save(photos / name)
    images = f"--images_dir={photos}"
    assert _pairs(made, tmp_path / "out", "--format=colmap", *_verified(made, images)) == 0
    database = pycolmap.Database.open(tmp_path / "out" / "database.db")
    numbers = {image.name: image.image_id for image in database.read_all_images()}
    assert set(numbers) == set(store.ids())
    assert {camera.width for camera in database.read_all_cameras()} == {600}
    for (query, database_id), expected in _expected(made).items():
        keypoints = database.read_keypoints(numbers[query])
        locations = store.read_local(query).locations
        np.testing.assert_allclose(keypoints[:, :2], locations[:, ::-1] + 0.5, atol=1e-4)
        matches = database.read_matches(numbers[query], numbers[database_id])
        np.testing.assert_array_equal(matches, expected)
    database.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"min_inliers": 3}, "needs verifications"),
        ({"format": "hloc", "verifications_dir": "V"}, "features that were verified"),
        ({"format": "matlab"}, "must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(made, tmp_path, arguments, words):
    given = {"format": "csv", **arguments}
    if "verifications_dir" in given:
        given["verifications_dir"] = made / "ranking.verifications"
    with pytest.raises(InputError, match=words):
        pairs.write_pairs(made / "ranking.npz", tmp_path / "out", **given)


def test_features_of_another_store_are_refused(made, tmp_path):
    images = {
        f"some/{place}_{view}.png": stores.place_features(place, view, num_local=5)
        for place in range(4)
        for view in range(2)
    }
    other = FeatureStore(stores.make_store(tmp_path / "other", images))
    verifications = {"verifications_dir": made / "ranking.verifications"}
    with pytest.raises(InputError, match="features of the store"):
        pairs.write_pairs(
            made / "ranking.npz", tmp_path / "out", "hloc", database=other, **verifications
        )
    assert not (tmp_path / "out" / "matches.h5").exists()
    # Nor verifications of another ranking.
    ranking = ranking_file.load_ranking(made / "ranking.npz")
    cut = ranking_file.save_ranking(
        tmp_path / "cut.npz",
        type(ranking)(
            ranking.query_ids[:1], ranking.database_ids, ranking.indices[:1], ranking.scores[:1]
        ),
    )
    with pytest.raises(InputError, match="this ranking's queries"):
        pairs.write_pairs(cut, tmp_path / "out", "csv", **verifications)


def test_names_with_spaces_are_refused_in_lists(tmp_path):
    store = stores.make_store(
        tmp_path / "store", {f"a {n}": stores.place_features(0, n) for n in range(2)}
    )
    ranking = tmp_path / "ranking.npz"
    assert _run("search", f"--database_store={store}", f"--output={ranking}") == 0
    with pytest.raises(InputError, match="no spaces"):
        pairs.write_pairs(ranking, tmp_path / "out", "hloc")
    assert pairs.write_pairs(ranking, tmp_path / "out", "csv")[0].is_file()
