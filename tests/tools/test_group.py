"""group: near-duplicates and images of one place, as labels that compare reads."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image

from delf_tf.checks import InputError
from delf_tf.datasets import folder
from delf_tf.features.sources import Source
from delf_tf.features.store import create, writer
from delf_tf.retrieval.second_stage.groups import connected, each_pair_once, find_groups
from delf_tf.tools import main
from delf_tf.types import Ranking, Verification
from tests.tools import stores


def _ranking(indices, scores=None):
    indices = np.array(indices)
    ids = tuple("abcdefgh"[: len(indices)])
    scores = np.full(indices.shape, 0.5) if scores is None else np.array(scores)
    return Ranking(ids, ids, indices, scores)


def _verification(num):
    matches = np.stack([np.arange(num)] * 2, axis=1)
    return Verification(num, np.eye(3), matches, np.ones(num, bool))


def test_each_pair_is_kept_once():
    # 0 and 1 find each other, 2 finds 0 alone, 3 finds nothing.
    once = each_pair_once(_ranking([[1, 2], [0, 2], [0, -1], [-1, -1]]))
    np.testing.assert_array_equal(once.indices, [[1, 2], [2, -1], [-1, -1], [-1, -1]])
    assert each_pair_once(_ranking([[-1]])).indices.tolist() == [[-1]]
    with pytest.raises(InputError, match="among themselves"):
        each_pair_once(Ranking(("q",), ("a",), np.zeros((1, 1)), np.zeros((1, 1))))


def test_a_chain_joins_its_ends():
    groups = connected(5, np.array([0, 1]), np.array([1, 4]))
    assert groups[0] == groups[1] == groups[4]
    assert len({groups[0], groups[2], groups[3]}) == 3
    assert connected(2, np.zeros(0, int), np.zeros(0, int)).tolist() == [0, 1]


def test_groups_begin_with_the_best_joined_and_duplicates_name_the_first():
    ranking = _ranking([[1], [2], [3], [-1], [5], [-1]], [[0.5], [0.99], [0.5], [0], [0.99], [0]])
    found = [{1: _verification(40)}, {2: _verification(40)}, {3: _verification(5)}, {}]
    found += [{5: _verification(5)}, {}]
    options = {"min_inliers": 30, "duplicate_similarity": 0.9}
    groups = find_groups(ranking, found, **options)
    # 4 and 5 are alike for the first stage, but nothing joins them.
    assert groups.members == [["b", "a", "c"]]
    assert groups.duplicate_of == {"c": "b"}
    groups = find_groups(ranking, found, **options, same_content=[["d", "e"]])
    assert groups.members == [["b", "a", "c"], ["d", "e"]]
    assert groups.duplicate_of == {"c": "b", "e": "d"}
    assert find_groups(_ranking([[-1]]), [{}], **options).members == []


@pytest.fixture
def store(tmp_path):
    """Three places with two views, one picture of its own, and a file that is there twice."""
    images = {f"{name}.png": one for name, one in stores.places(3, 2).items()}
    images["alone.png"] = images["copy.png"] = stores.place_features(-1, 0)
    create(
        tmp_path / "store",
        list(images),
        fingerprint=stores.FINGERPRINT,
        global_dim=stores.GLOBAL_DIM,
        local_dim=stores.LOCAL_DIM,
    )
    sources = {one: Source(1, f"{row + 1:032x}") for row, one in enumerate(images)}
    sources["copy.png"] = sources["alone.png"]
    with writer(tmp_path / "store") as opened:
        opened.write(0, list(images), list(images.values()), {}, sources)
    return tmp_path / "store"


def _run(store, *arguments):
    argv = ["--config=compact", f"--database_store={store}", *map(str, arguments)]
    return main.main(["delf_tf", "group", *argv])


def test_places_are_found_and_shown(store, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for number, one in enumerate(("0_0", "0_1", "1_0", "1_1", "2_0", "copy")):
        Image.new("RGB", (40, 30), (40 * number, 9, 9)).save(tmp_path / "photos" / f"{one}.png")
    out = tmp_path / "out"
    arguments = [f"--images_dir={tmp_path / 'photos'}", f"--output_dir={out}", "--min_inliers=20"]
    assert _run(store, *arguments) == 0
    assert capsys.readouterr().out == (
        f"8 images in 4 groups, 1 near-duplicates\n{out / 'labels.csv'}\n{out / 'index.html'}\n"
    )
    labels = folder.read_labels(out / "labels.csv")
    assert [labels[f"{place}_0.png"] for place in range(3)] == ["place 1", "place 2", "place 3"]
    assert all(labels[f"{place}_0.png"] == labels[f"{place}_1.png"] for place in range(3))
    with (out / "labels.csv").open() as file:
        repeated = {row["image"]: row["duplicate_of"] for row in csv.DictReader(file)}
    assert {one: other for one, other in repeated.items() if other} == {"copy.png": "alone.png"}
    page = (out / "index.html").read_text()
    assert "8 images in 4 groups" in page
    assert "copy.png, near-duplicate of alone.png" in page
    # Verified once.
    before = (out / "labels.csv").read_bytes()
    assert _run(store, *arguments) == 0
    assert (out / "labels.csv").read_bytes() == before
    # Nothing is joined by more inliers than there are features.
    assert _run(store, f"--output_dir={out}", "--min_inliers=1000") == 0
    assert set(folder.read_labels(out / "labels.csv").values()) == {"", "place 1"}


def test_images_that_are_elsewhere_are_told_at_once(store, tmp_path, capsys):
    arguments = [f"--images_dir={tmp_path}", f"--output_dir={tmp_path / 'out'}"]
    assert _run(store, *arguments) == 1
    assert "must be where they were" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_image_is_no_group(tmp_path, capsys):
    one = stores.make_store(tmp_path / "store", stores.places(1, 1))
    assert _run(one, f"--output_dir={tmp_path / 'out'}") == 1
    assert "two images" in capsys.readouterr().err
