from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.datasets import sfm120k

IDS = [f"0123456789abcdef0123456789abcd{at:02x}" for at in range(4)]
PART = {"cids": IDS, "cluster": [7, 7, 9, 9], "qidxs": [0, 2], "pidxs": [1, 3], "bbxs": [None]}
CONTENT = {"train": PART, "val": {**PART, "qidxs": np.array([3]), "pidxs": np.array([2])}}


def write(tmp_path, content):
    path = tmp_path / "retrieval-SfM-120k.pkl"
    path.write_bytes(pickle.dumps(content, 2))
    return path


def test_reads_both_splits(tmp_path):
    path = write(tmp_path, CONTENT)
    train = sfm120k.read_database(path, "train")
    assert train.image_ids == tuple(IDS)
    assert train.clusters.tolist() == [7, 7, 9, 9]
    assert train.query_rows.tolist() == [0, 2]
    assert train.positive_rows.tolist() == [1, 3]
    assert train.positive_rows.dtype == np.int64
    assert sfm120k.read_database(path, "val").query_rows.tolist() == [3]


def test_where_the_published_archive_keeps_an_image():
    assert sfm120k.image_path("/ims", IDS[3]) == Path("/ims/03/cd/ab") / IDS[3]


def test_an_empty_split(tmp_path):
    empty = {"train": {"cids": [], "cluster": [], "qidxs": [], "pidxs": []}}
    split = sfm120k.read_database(write(tmp_path, empty), "train")
    assert split.image_ids == ()
    assert split.query_rows.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cids": None}, "different ids"),
        ({"cids": [IDS[0]] * 4}, "different ids"),
        ({"cids": ["../../../etc/passwd", *IDS[1:]]}, "different ids"),
        ({"cluster": [1]}, "as long as cids.*4, 1, 2, 2"),
        ({"pidxs": [1]}, "pidxs as long as qidxs"),
        ({"qidxs": [0, 4]}, "qidxs must be rows of cids"),
        ({"pidxs": [-1, 0]}, "pidxs must be rows of cids"),
        ({"pidxs": ["a", "b"]}, "pidxs must be a list of integers"),
        ({"cluster": [0.5, 1, 2, 3]}, "whole numbers"),
        ({"cluster": "abcd"}, "numeric array"),
    ],
)
def test_bad_content(tmp_path, change, message):
    with pytest.raises(InputError, match=f"{message}.*SfM-120k.pkl"):
        sfm120k.read_database(write(tmp_path, {"train": {**PART, **change}}), "train")


def test_missing_parts(tmp_path):
    with pytest.raises(InputError, match="dict with the dict val"):
        sfm120k.read_database(write(tmp_path, {"train": PART}), "val")
    with pytest.raises(InputError, match="must have cids, cluster"):
        sfm120k.read_database(write(tmp_path, {"val": {"cids": IDS}}), "val")
    with pytest.raises(InputError, match="dict with the dict train"):
        sfm120k.read_database(write(tmp_path, [1]), "train")
    with pytest.raises(InputError, match="train, val"):
        sfm120k.read_database(tmp_path / "x", "test")
    with pytest.raises(InputError, match="must exist"):
        sfm120k.read_database(tmp_path / "x", "val")


def test_hostile_pickle(tmp_path):
    with pytest.raises(InputError, match=r"Nothing in it was run"):
        sfm120k.read_database(write(tmp_path, {"train": os.system}), "train")
