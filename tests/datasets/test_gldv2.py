from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delf_tf.checks import InputError
from delf_tf.datasets import gldv2


def write(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    return path


def test_training_tables(tmp_path):
    path = write(tmp_path, 'id,url,landmark_id\nab1,"http://x/a,b",7\nab2,,0\n')
    assert list(gldv2.read_train(path)) == [("ab1", 7), ("ab2", 0)]
    path = write(tmp_path, "landmark_id,images\n7,ab1 ab2\n0,ab3\n")
    assert list(gldv2.read_train_clean(path)) == [(7, ("ab1", "ab2")), (0, ("ab3",))]
    path = write(tmp_path, "id\nab1\nab2\n")
    assert gldv2.read_image_ids(path) == ["ab1", "ab2"]
    assert gldv2.image_path("/d", "ab12") == Path("/d/a/b/1/ab12.jpg")


def test_tables_without_lines(tmp_path):
    assert list(gldv2.read_train(write(tmp_path, "id,url,landmark_id\n"))) == []
    assert gldv2.read_image_ids(write(tmp_path, "id\n")) == []
    assert gldv2.read_retrieval_predictions(write(tmp_path, "id,images\n")) == {}


def test_landmarks_of_ten_thousand_images_fit_on_a_line(tmp_path):
    ids = [f"{at:016x}" for at in range(12_000)]
    path = write(tmp_path, f"landmark_id,images\n3,{' '.join(ids)}\n")
    assert list(gldv2.read_train_clean(path)) == [(3, tuple(ids))]


def test_training_tables_are_read_line_by_line(tmp_path):
    path = write(tmp_path, "id,url,landmark_id\nab1,,1\nab2,,nonsense\n")
    rows = gldv2.read_train(path)
    assert next(rows) == ("ab1", 1)
    with pytest.raises(InputError, match=r"line=3.*no landmark id"):
        next(rows)


def test_exclusions(tmp_path):
    out = gldv2.read_exclusions(write(tmp_path, "landmark_id\n17\n901\n"))
    assert ("ab1", 17) in out
    assert ("ab1", 18) not in out
    out = gldv2.read_exclusions(write(tmp_path, "id\nab1\n"))
    assert ("ab1", 17) in out
    assert ("ab2", 17) not in out
    out = gldv2.read_exclusions(write(tmp_path, "landmark_id,images\n17,ab1 ab2\n18,\n"))
    assert ("ab1", 99) in out
    assert ("ab3", 17) not in out
    assert ("ab3", 18) in out
    assert ("ab3", 18) not in gldv2.Exclusions()
    with pytest.raises(InputError, match=r"line=2.*no landmark id"):
        gldv2.read_exclusions(write(tmp_path, "class\n17\n"))


def test_recognition(tmp_path):
    text = "id,landmarks,Usage\r\nq1,3 3 0,Public\r\nq2,,Private\r\nq3,None,Ignored\r\n"
    solution = gldv2.read_recognition_solution(write(tmp_path, text))
    assert solution == {"q1": ((3, 3, 0), "Public"), "q2": ((), "Private"), "q3": ((), "Ignored")}
    path = write(tmp_path, "id,landmarks\nq1,3 0.5 \n\nq2,\nq3,1 -2e-1\n")
    assert gldv2.read_recognition_predictions(path) == {"q1": (3, 0.5), "q3": (1, -0.2)}
    assert gldv2.read_recognition_predictions(path, solution) == {"q1": (3, 0.5)}


def test_retrieval(tmp_path):
    text = "id,images,Usage\nq1,i1 i2,Public\nq2,i3,Private\nq3,None,Ignored\n"
    solution = gldv2.read_retrieval_solution(write(tmp_path, text))
    assert solution == {
        "q1": (("i1", "i2"), "Public"),
        "q2": (("i3",), "Private"),
        "q3": ((), "Ignored"),
    }
    path = write(tmp_path, "id,images\nq1,i1 i1 i9 \nq2,\nq3,i1\n")
    assert gldv2.read_retrieval_predictions(path, solution) == {"q1": ("i1", "i1", "i9")}


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        ("train", "id,url,landmark_id\nab1,,-1\n", "line=2.*no landmark id"),
        ("train", "id,url,landmark_id\n../x,,1\n", "line=2.*no image id"),
        ("train", "id,url\nab1,\n", "one column named 'landmark_id'"),
        ("train_clean", "landmark_id,images\n1,a\n1,b\n", "line=3.*second time"),
        ("train_clean", "landmark_id,images\n1,a /b\n", "line=2.*no image id"),
        ("image_ids", "id\nab1\nab1\n", "line=3.*second time"),
        ("recognition_solution", "id,landmarks,Usage\nq,1,public\n", "line=2.*'public' is none"),
        ("recognition_solution", "id,landmarks,Usage\nq,a,Public\n", "line=2.*no landmark id"),
        ("recognition_solution", "id,landmarks,Usage\nq,1,Public\nq,1,Public\n", "second time"),
        ("retrieval_solution", "id,images,Usage\nq,a,Public\nq,b,Ignored\n", "line=3.*second"),
        ("recognition_predictions", "id,landmarks\nq,1\n", "line=2.*1 words"),
        ("recognition_predictions", "id,landmarks\nq,1 2 3\n", "line=2.*3 words"),
        ("recognition_predictions", "id,landmarks\nq,1  .5\n", "line=2.*3 words"),
        ("recognition_predictions", "id,landmarks\nq,1 nan\n", "line=2.*no finite score"),
        ("recognition_predictions", "id,landmarks\nq,1.5 2\n", "line=2.*no landmark id"),
        ("recognition_predictions", "id,landmarks\nq,\nq,1 .5\n", "line=3.*second time"),
        ("retrieval_predictions", "id,images\nq,a  b\n", "line=2.*no image id"),
        ("retrieval_predictions", "id,images\nq,a\nq,a\n", "line=3.*second time"),
        ("retrieval_predictions", "id,landmarks\nq,a\n", "one column named 'images'"),
    ],
)
def test_malformed_lines(tmp_path, reader, text, message):
    with pytest.raises(InputError, match=message):
        list(getattr(gldv2, f"read_{reader}")(write(tmp_path, text)))


def test_unknown_images_are_refused(tmp_path):
    path = write(tmp_path, "id,landmarks\nq9,1 .5\n")
    with pytest.raises(InputError, match=r"line=2.*'q9' is not in the solution"):
        gldv2.read_recognition_predictions(path, {"q1": ((1,), "Public")})


def test_golden_files(golden_dir):
    folder = golden_dir / "delf" / "gldv2"
    expected = json.loads((folder / "expected.json").read_text())
    for task in ("recognition", "retrieval"):
        solution = getattr(gldv2, f"read_{task}_solution")(folder / f"{task}_solution.csv")
        read = getattr(gldv2, f"read_{task}_predictions")
        predictions = read(folder / f"{task}_predictions.csv", solution)
        for usage in ("Public", "Private"):
            want = expected[task][usage.lower()]
            rows = [one for one, (_, found) in solution.items() if found == usage]
            assert len(rows) == want["n_solution"]
            assert sum(one in predictions for one in rows) == want["n_predictions"]
            if "n_positive" in want:
                assert sum(bool(solution[one][0]) for one in rows) == want["n_positive"]


def test_golden_training_tables(golden_dir):
    folder = golden_dir / "delf" / "gldv2_tfrecord"
    by_class = dict(gldv2.read_train_clean(folder / "train_clean.csv"))
    rows = list(gldv2.read_train(folder / "train.csv"))
    assert len(rows) == 10
    assert all(image in by_class[landmark] for image, landmark in rows)


@settings(deadline=None)
@given(st.binary(max_size=150))
def test_any_bytes_are_predictions_or_an_input_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("table") / "table.csv"
    path.write_bytes(b"id,landmarks\n" + content)
    try:
        predictions = gldv2.read_recognition_predictions(path)
    except InputError as error:
        assert "line=" in str(error)
        return
    assert all(np.isfinite(score) for _, score in predictions.values())
