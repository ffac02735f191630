from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_tf.checks import InputError
from delf_tf.datasets import folder


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def ids(root):
    return [ref.id for ref in folder.list_images(root)]


def test_lists_recursively_in_order(tmp_path):
    touch(tmp_path, "b.jpg", "a/z.PNG", "a/c/d.JpEg", "e.webp", "f.gif", "g.bmp", "B.jpg")
    touch(tmp_path, "note.txt", "archive.jpg.zip", ".hidden.jpg", ".cache/x.jpg", "a/.y.jpg")
    assert ids(tmp_path) == ["B.jpg", "a/c/d.JpEg", "a/z.PNG", "b.jpg", "e.webp", "f.gif", "g.bmp"]
    refs = folder.list_images(str(tmp_path))
    assert refs[1].path == tmp_path / "a" / "c" / "d.JpEg"
    assert refs[1].box is None


def test_links_are_followed_once(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    touch(root, "a/x.jpg")
    touch(outside, "y.jpg")
    (root / "loop").symlink_to(root)
    (root / "a" / "up").symlink_to("..")
    (root / "0_alias").symlink_to("a")
    (root / "away").symlink_to(outside)
    (outside / "back").symlink_to(root)
    (root / "single.jpg").symlink_to(outside / "y.jpg")
    (root / "self.jpg").symlink_to("self.jpg")
    assert ids(root) == ["a/x.jpg", "away/y.jpg", "self.jpg", "single.jpg"]


def test_names_that_are_not_utf8(tmp_path):
    try:
        touch(tmp_path, os.fsdecode(b"caf\xe9.jpg"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    touch(tmp_path, "caf\u00e9.jpg")
    assert ids(tmp_path) == ["caf\\xe9.jpg", "caf\u00e9.jpg"]
    assert all(ref.path.exists() for ref in folder.list_images(tmp_path))


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(InputError, match=r"must exist.*nowhere"):
        folder.list_images(tmp_path / "nowhere")
    touch(tmp_path, "note.txt")
    with pytest.raises(InputError, match=r"at least one.*\.webp"):
        folder.list_images(tmp_path)
    with pytest.raises(InputError, match="must exist"):
        folder.list_images(tmp_path / "note.txt")


def write(tmp_path, content):
    path = tmp_path / "labels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_reads_labels(tmp_path):
    text = '\ufeffplace,source,image\r\nA,x,a.jpg\r\n\r\n,y,"b,1.jpg"\r\n B ,,c/d.jpg\r\n'
    labels = folder.read_labels(write(tmp_path, text))
    assert labels == {"a.jpg": "A", "b,1.jpg": "", "c/d.jpg": "B"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begin with a header"),
        (b"image,place\n", "at least one image"),
        (b"image;place\na;b\n", "one column named 'image', separated by commas"),
        (b"image,plaec\na,b\n", "Did you mean 'plaec'"),
        (b"image,image,place\n", "one column named 'image'"),
        (b"image,place\na,b\na,c\n", "line=3.*second time"),
        (b"image,place\na\n", "line=2.*1 fields where the header has 2"),
        (b"image,place\na,b\n,c\n", "line=3.*no image"),
        (b"image,place\na,b\n\xff\xfe,c\n", "not UTF-8"),
        (b"image,place\na\0,b\n", "line=2.*NUL"),
        (b'image,place\n"a,b\n', "line=2"),
        (b'image,place\n"a"x,b\n', "line=2"),
    ],
)
def test_bad_labels_name_the_line(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        folder.read_labels(write(tmp_path, content))


def test_missing_labels(tmp_path):
    with pytest.raises(InputError, match="must exist"):
        folder.read_labels(tmp_path / "nowhere.csv")


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_are_labels_or_an_input_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(InputError):
        folder.read_labels(path)


_FIELD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(deadline=None)
@given(st.dictionaries(_FIELD.filter(bool), _FIELD, min_size=1, max_size=6))
def test_what_csv_writes_is_read_back(tmp_path_factory, labels):
    import csv

    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "place"), *labels.items()])
    assert folder.read_labels(path) == {one: place.strip() for one, place in labels.items()}


LABELS = {"a0": "A", "a1": "A", "a2": "A", "b0": "B", "x0": "", "x1": ""}


def test_ground_truth_by_hand():
    database = ["x0", "a1", "b0", "a0", "a2", "new"]
    truth = folder.ground_truth(["a0", "b0", "x0", "new"], database, LABELS)
    assert [rows.tolist() for rows in truth.positives] == [[1, 4], [], [], []]
    assert [rows.tolist() for rows in truth.junk] == [[3], [2], [0], [5]]


def test_ground_truth_of_queries_outside_the_database():
    truth = folder.ground_truth(["a0"], ["a1", "x0"], LABELS)
    assert truth.positives[0].tolist() == [0]
    assert truth.junk[0].tolist() == []
    assert truth.junk[0].dtype == np.int64
    assert len(folder.ground_truth([], ["a0"], LABELS)) == 0


def test_labels_of_other_images_are_refused():
    with pytest.raises(InputError, match="of these images"):
        folder.ground_truth(["p"], ["q"], LABELS)


def test_places_and_queries():
    everything = [*LABELS, "new"]
    assert folder.places(everything, LABELS) == ("A", "A", "A", "B", "", "", "")
    assert folder.places([], LABELS) == ()
    assert folder.labelled_queries(everything, LABELS) == ["a0", "a1", "a2"]
    assert folder.labelled_queries([], LABELS) == []


def test_the_photographs_labels(shared):
    labels = folder.read_labels(shared / "photos" / "labels.csv")
    ids = [ref.id for ref in folder.list_images(shared / "photos" / "images")]
    assert sorted(labels) == ids
    assert len({place for place in labels.values() if place}) == 23
    assert sum(not place for place in labels.values()) == 400
    assert len(folder.labelled_queries(ids, labels)) == 124


def test_what_is_left_out_is_junk():
    labels = {"q.jpg": "tower", "a.jpg": "tower", "b.jpg": "tower", "c.jpg": ""}
    ids = ("a.jpg", "b.jpg", "c.jpg")
    truth = folder.ground_truth(("q.jpg",), ids, labels, {"q.jpg": ["b.jpg"]})
    assert truth.positives[0].tolist() == [0]
    assert truth.junk[0].tolist() == [1]
