from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_tf.checks import InputError
from delf_tf.datasets import revisitop
from delf_tf.types import ImageRef

CONTENT = {
    "imlist": ["d0", "d1", "d2", "d3", "d4"],
    "qimlist": ["q0", "q1"],
    "gnd": [
        {"bbx": [1.5, 2, 30, 40], "easy": [0], "hard": [3, 1], "junk": [4]},
        {"bbx": [0, 0, 9, 8], "easy": [], "hard": [], "junk": []},
    ],
}


def write(tmp_path, content, name="gnd.pkl"):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(content, 2))
    return path


def write_mat(tmp_path, num_queries=2, **options):
    entries = [
        {key: np.array(rows, float) + (key != "bbx") for key, rows in entry.items()}
        for entry in CONTENT["gnd"]
    ]
    path = tmp_path / "gnd.mat"
    content = {
        "imlist": np.array(CONTENT["imlist"], object)[None],
        "qimlist": np.array(CONTENT["qimlist"][:num_queries], object)[None],
        "gnd": np.array(entries[:num_queries], object)[None],
    }
    scipy.io.savemat(path, content, **options)
    return path


@pytest.mark.parametrize("kind", ["pkl", "mat", "compressed mat"])
def test_protocols_by_hand(tmp_path, kind):
    if kind == "pkl":
        path = write(tmp_path, CONTENT)
    else:
        path = write_mat(tmp_path, do_compression=kind == "compressed mat")
    truth = revisitop.read_ground_truth(path)
    assert truth.query_ids == ("q0", "q1")
    assert truth.database_ids == ("d0", "d1", "d2", "d3", "d4")
    assert truth.query_boxes == ((2.0, 1.5, 40.0, 30.0), (0.0, 0.0, 8.0, 9.0))
    want = {
        "easy": ([0], [4, 3, 1]),
        "medium": ([0, 3, 1], [4]),
        "hard": ([3, 1], [4, 0]),
    }
    for protocol, (positives, junk) in want.items():
        got = truth.ground_truth(protocol)
        assert got.positives[0].tolist() == positives
        assert got.junk[0].tolist() == junk
        assert got.positives[1].tolist() == got.junk[1].tolist() == []
        assert got.positives[1].dtype == np.int64
    with pytest.raises(InputError, match="easy, medium, hard"):
        truth.ground_truth("Hard")


def test_a_mat_file_of_one_query(tmp_path):
    assert len(revisitop.read_ground_truth(write_mat(tmp_path, num_queries=1)).easy) == 1


def test_image_refs(tmp_path):
    truth = revisitop.read_ground_truth(write(tmp_path, CONTENT))
    queries, database = truth.image_refs("/images")
    assert queries[0] == ImageRef("q0", "/images/q0.jpg", (2.0, 1.5, 40.0, 30.0))
    assert database[4] == ImageRef("d4", "/images/d4.jpg")
    assert [len(queries), len(database)] == [2, 5]


def test_distractors_come_last(tmp_path):
    truth = revisitop.read_ground_truth(write(tmp_path, CONTENT))
    more = truth.with_distractors(["r/0.jpg", "r/1.jpg"])
    assert more.database_ids == ("d0", "d1", "d2", "d3", "d4", "r/0.jpg", "r/1.jpg")
    assert more.ground_truth("easy").positives[0].tolist() == [0]
    with pytest.raises(InputError, match="name an image once"):
        truth.with_distractors(["d1"])


@pytest.mark.parametrize(
    ("name", "num_images", "totals"),
    [("roxford5k", 4993, (3029, 5526, 2497)), ("rparis6k", 6322, (6874, 17224, 10350))],
)
def test_real_ground_truth(shared, name, num_images, totals):
    truth = revisitop.read_ground_truth(shared / "ground_truth" / f"gnd_{name}.pkl")
    assert len(truth.database_ids) == num_images
    assert len(truth.query_ids) == len(truth.query_boxes) == 70
    counted = [
        sum(map(len, truth.ground_truth(protocol).positives)) for protocol in revisitop.PROTOCOLS
    ]
    assert tuple(counted) == totals


def test_golden_mat_file(golden_dir):
    folder = golden_dir / "delf" / "revisitop"
    truth = revisitop.read_ground_truth(folder / "gnd_synth.mat")
    expected = json.loads((folder / "metrics.json").read_text())["ground_truth"]
    assert len(truth.easy) == len(expected) == 12
    for query, entry in enumerate(expected):
        assert truth.query_boxes[query] == (20, 10, 400, 300)
        for part in ("easy", "hard", "junk"):
            assert getattr(truth, part)[query].tolist() == entry[part]


def changed(**entry):
    first = {**CONTENT["gnd"][0], **entry}
    first = {key: value for key, value in first.items() if value is not None}
    return {**CONTENT, "gnd": [first, CONTENT["gnd"][1]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "a dict with gnd, imlist and qimlist.*list"),
        ({"gnd": []}, "a dict with gnd, imlist and qimlist"),
        ({**CONTENT, "gnd": CONTENT["gnd"][:1]}, "one dict a query"),
        ({**CONTENT, "gnd": [[], []]}, "one dict a query"),
        ({**CONTENT, "imlist": ["d0"] * 5}, "imlist must name an image once"),
        ({**CONTENT, "imlist": 3}, "imlist must be a list of names"),
        ({**CONTENT, "qimlist": ["q0", 1]}, "qimlist must be a list of names"),
        ({**CONTENT, "qimlist": ["../../secret", "q"]}, "below the images' folder"),
        ({**CONTENT, "qimlist": ["/etc/passwd", "q"]}, "below the images' folder"),
        ({**CONTENT, "qimlist": ["", "q"]}, "below the images' folder"),
        (changed(easy=[5]), "easy must be different rows of imlist, 0 to 4"),
        (changed(easy=[-1]), "easy must be different rows"),
        (changed(hard=[1, 1]), "hard must be different rows"),
        (changed(easy=[2.0**64]), "easy must fit int64"),
        (changed(easy=["a"]), "easy must be a numeric array"),
        (changed(easy=[0.5]), "easy must hold whole numbers"),
        (changed(junk=None), "must have junk"),
        (changed(bbx=None), "must have bbx"),
        (changed(bbx=[1, 2, 3]), "bbx must have shape"),
        (changed(bbx=[5, 0, 1, 2]), r"bbx must be \(x1, y1, x2, y2\)"),
        (changed(bbx=[0, 0, np.nan, 2]), "bbx must be finite"),
    ],
)
def test_bad_content(tmp_path, content, message):
    with pytest.raises(InputError, match=f"{message}.*gnd.pkl"):
        revisitop.read_ground_truth(write(tmp_path, content))


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match=r"one of \.pkl, \.mat"):
        revisitop.read_ground_truth(tmp_path / "gnd.json")
    for name in ("gnd.pkl", "gnd.mat"):
        with pytest.raises(InputError, match="must exist"):
            revisitop.read_ground_truth(tmp_path / name)
        (tmp_path / name).write_bytes(b"no such thing " * 20)
        with pytest.raises(InputError, match="must be whole"):
            revisitop.read_ground_truth(tmp_path / name)


@settings(max_examples=400, deadline=None)
@given(at=st.integers(0, 100_000), replacement=st.binary(min_size=1, max_size=4))
def test_damaged_mat_files(tmp_path_factory, at, replacement):
    path = write_mat(tmp_path_factory.mktemp("mat"))
    data = bytearray(path.read_bytes())
    at %= len(data)
    data[at : at + len(replacement)] = replacement
    path.write_bytes(bytes(data))
    try:
        truth = revisitop.read_ground_truth(path)
    except InputError:
        return
    assert len(truth.ground_truth("medium")) == 2
