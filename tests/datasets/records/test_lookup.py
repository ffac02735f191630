"""Records by id: found, read alone in any order, and refused where they cannot be told apart."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.datasets.records import files as record_files
from delf_tf.datasets.records import schema
from delf_tf.datasets.records.lookup import locate_records


def _write(path, names, payload=None):
    with path.open("wb") as file:
        for name in names:
            example = schema.make_example(name, name.encode() * 50, 3, 4, len(name))
            record_files.write_record(file, example if payload is None else payload)
    return str(path)


@pytest.fixture
def paths(tmp_path):
    return [
        _write(tmp_path / "train-00000-of-00002", ["a", "bb", "ccc"]),
        _write(tmp_path / "train-00001-of-00002", ["dddd", "é"]),
    ]


def _ids(dataset):
    parsed = dataset.map(lambda one: schema.parse_example(one)["id"])
    return [one.decode() for one in parsed.as_numpy_iterator()]


def test_every_record_is_read_alone(paths):
    lookup = locate_records(paths)
    assert lookup.ids == ("a", "bb", "ccc", "dddd", "é")
    assert lookup.shards.tolist() == [0, 0, 0, 1, 1]
    everything = list(tf.data.TFRecordDataset([str(path) for path in paths]).as_numpy_iterator())
    assert list(lookup.dataset(np.arange(5)).as_numpy_iterator()) == everything
    rows = [4, 0, 0, 3, 2, 1] * 20
    assert _ids(lookup.dataset(rows)) == [lookup.ids[row] for row in rows]


def test_nothing_is_nothing(paths):
    assert _ids(locate_records(paths).dataset(np.zeros(0, np.int64))) == []
    none = locate_records([])
    assert none.ids == ()
    assert _ids(none.dataset([])) == []


@pytest.mark.parametrize("row", [-1, 5])
def test_rows_outside_are_refused(paths, row):
    with pytest.raises(InputError, match=r"rows must be rows of ids.*num_ids=5"):
        locate_records(paths).dataset([0, row])


def test_a_shard_cut_off_gives_the_records_before(paths, tmp_path):
    whole = (tmp_path / "train-00000-of-00002").read_bytes()
    (tmp_path / "train-00000-of-00002").write_bytes(whole[:-3])
    assert locate_records(paths).ids == ("a", "bb", "dddd", "é")


def test_unusable_records_are_refused(paths, tmp_path):
    with pytest.raises(InputError, match=r"each image once.*num_records=6, num_ids=5"):
        locate_records([*paths, _write(tmp_path / "more", ["bb"])])
    nameless = schema.make_example("", b"", 1, 1).replace(b"image/id", b"image/ix")
    for payload in (b"\xff\xff no example", nameless):
        with pytest.raises(InputError, match=r"example with an image/id.*more"):
            locate_records([_write(tmp_path / "more", ["x"], payload)])
    with pytest.raises(InputError, match="must be a file"):
        locate_records([str(tmp_path / "absent")])
