"""Mined tuples as batches: their order, epochs, files, and whole runs that stop and go on."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.datasets.input.pipeline import InputPipeline, RecordStream
from delf_tf.datasets.records import schema
from delf_tf.datasets.records.lookup import locate_records
from delf_tf.datasets.sfm120k import SfmSplit
from delf_tf.training import optimizers, strategy
from delf_tf.training.objective import Objective
from delf_tf.training.schedules import create_schedule
from delf_tf.training.trainer import Limits, Trainer
from delf_tf.training.tuple_stream import RecordDescriber, TupleStream, with_records
from delf_tf.training.tuples import TupleMiner
from tests.training.tiny_model import TinyModel

NUM_NEGATIVES = 2


@pytest.fixture(scope="module")
def lookup(records_dir):
    return locate_records(schema.open_records(str(records_dir)).paths)


@pytest.fixture
def split():
    """The records' 20 images, i0 … i19, in four clusters; i0 … i3 are queries of all the others."""
    rows = np.arange(20)
    ids = tuple(f"i{row}" for row in reversed(rows))
    positives = np.flatnonzero(rows < 16)
    return SfmSplit(ids, (19 - rows) % 4, 19 - (19 - positives) % 4, positives)


def _by_id(asked):
    """Descriptors that depend on the row alone, and a note of how often they are asked for."""

    def describe(rows):
        asked.append(len(rows))
        drawn = np.stack([np.random.RandomState(row).standard_normal(6) for row in rows])
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    return describe


def _stream(lookup, split, folder, asked=None, **options):
    miner = TupleMiner(split, num_queries=6, pool_size=16, num_negatives=NUM_NEGATIVES, seed=1)
    describe = _by_id([] if asked is None else asked)
    return TupleStream(lookup, miner, describe, folder, **{"batch_size": 8, **options})


def _ids(dataset):
    return [
        (int(position), schema.parse_example(one)["id"].numpy().decode())
        for position, one in dataset
    ]


def test_an_epoch_is_its_tuples_in_a_row(lookup, split, tmp_path):
    asked = []
    stream = _stream(lookup, split, tmp_path, asked)
    assert stream.num_records == 24
    got = _ids(stream.dataset(24))
    miner = TupleMiner(split, num_queries=6, pool_size=16, num_negatives=2, seed=1)
    records = [lookup.ids.index(one) for one in split.image_ids]
    expected = miner.mine(1, _by_id([]), records).rows.ravel()
    assert got == [(24 + at, split.image_ids[row]) for at, row in enumerate(expected)]
    labels = np.array([int(name[1:]) % 4 for _, name in got]).reshape(-1, 4)
    assert (labels[:, 0] == labels[:, 1]).all()
    assert (labels[:, :1] != labels[:, 2:]).all()
    assert _ids(stream.dataset(24 + 8)) == got[8:]
    assert len(asked) == 1


def test_epochs_are_kept_and_checked(lookup, split, tmp_path):
    asked = []
    first = _ids(_stream(lookup, split, tmp_path, asked, fingerprint="f").dataset(0))
    assert _ids(_stream(lookup, split, tmp_path, asked, fingerprint="f").dataset(0)) == first
    assert len(asked) == 1
    _ids(_stream(lookup, split, tmp_path, asked, fingerprint="other").dataset(0))
    assert len(asked) == 2
    path = tmp_path / "epoch-000000.npz"
    with np.load(path) as kept:
        assert 0 < kept["mean_negative_distance"] < 2
    for damaged in (b"", b"PK\x03\x04 nothing", path.read_bytes()[:-40]):
        path.write_bytes(damaged)
        assert (
            _ids(_stream(lookup, split, tmp_path, asked, fingerprint="f").dataset(4)) == first[4:]
        )
    assert len(asked) == 5


def test_what_fills_no_batch_is_left_out(lookup, split, tmp_path):
    stream = _stream(lookup, split, tmp_path, batch_size=20)
    assert stream.num_records == 20
    assert len(_ids(stream.dataset(0))) == 20


@pytest.mark.parametrize("batch_size", [0, 6, 28])
def test_batches_are_of_whole_tuples(lookup, split, tmp_path, batch_size):
    with pytest.raises(InputError, match=r"multiple of 2 \+ num_negatives"):
        _stream(lookup, split, tmp_path, batch_size=batch_size)


def test_images_without_records_are_left_out(lookup, split):
    more = dataclasses.replace(
        split,
        image_ids=("lost", *split.image_ids),
        clusters=np.append(3, split.clusters),
        query_rows=np.append(split.query_rows + 1, [0, 20]),
        positive_rows=np.append(split.positive_rows + 1, [20, 0]),
    )
    kept = with_records(more, lookup)
    assert kept.image_ids == split.image_ids
    for name in ("clusters", "query_rows", "positive_rows"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(split, name))


def test_records_of_other_images_are_refused(lookup, split, tmp_path):
    other = dataclasses.replace(split, image_ids=tuple(f"other{row}" for row in range(20)))
    with pytest.raises(InputError, match=r"both its records.*other0.*i0.*same split"):
        with_records(other, lookup)
    with pytest.raises(InputError, match=r"must have a record.*num_lost=20.*with_records"):
        _stream(lookup, other, tmp_path)


def test_descriptors_are_those_of_the_model(lookup):
    model = TinyModel()
    model.record_options("tiny", {})
    model.initialize(seed=0)
    one, few = (
        RecordDescriber(model, lookup, image_size=16, batch_size=size)(range(20))
        for size in (32, 3)
    )
    assert one.shape == (20, 8)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(one, few, atol=1e-6)
    again = RecordDescriber(model, lookup, image_size=16, batch_size=32)([7, 3])
    np.testing.assert_allclose(again, one[[7, 3]], atol=1e-6)


@dataclasses.dataclass
class _Data:
    records_dir: object
    lookup: object
    split: SfmSplit


@pytest.fixture
def data(records_dir, lookup, split):
    return _Data(records_dir, lookup, split)


def _trainer(data, folder, *, distribution=None, steps=6, num_queries=6):
    lookup = data.lookup
    distribution = distribution or tf.distribute.get_strategy()
    with distribution.scope():
        model = TinyModel()
        model.record_options("tiny", {})
        model.initialize(seed=3)
        if distribution.num_replicas_in_sync > 1:
            strategy.synchronize_batch_norm(model)
        objective = Objective(
            model,
            4,
            weights={"descriptor": 0.0, "attention": 0.0, "reconstruction": 0.0},
            tuple_size=2 + NUM_NEGATIVES,
        )
        optimizer = optimizers.Optimizer("adamw", objective.trainable_variables(), clip_norm=5.0)
    assert list(objective.weights) == ["tuple"]
    records = schema.open_records(str(data.records_dir))
    miner = TupleMiner(
        data.split, num_queries=num_queries, pool_size=20, num_negatives=NUM_NEGATIVES
    )
    describe = RecordDescriber(model, lookup, image_size=16, batch_size=8)
    stream = TupleStream(lookup, miner, describe, folder / "tuples", batch_size=8)
    pipeline = InputPipeline(RecordStream(records.paths, records.counts), 8, 16, num_classes=4)
    return Trainer(
        objective,
        optimizer,
        dataclasses.replace(pipeline, stream=stream),
        folder,
        learning_rate=create_schedule("constant", 0.01),
        limits=Limits(steps, checkpoint_interval=4, log_interval=1),
        strategy=distribution,
    )


def _losses(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_run_mines_each_epoch_and_goes_on_bit_equal(data, tmp_path):
    _trainer(data, tmp_path / "whole").run()
    paths = sorted((tmp_path / "whole" / "tuples").iterdir())
    # Three steps an epoch.
    assert [path.name for path in paths] == ["epoch-000000.npz", "epoch-000001.npz"]
    rows = []
    for path in paths:
        with np.load(path) as kept:
            rows.append(kept["rows"])
    assert (rows[0] != rows[1]).any()
    first = _trainer(data, tmp_path / "halves")
    step = first._train_step
    first._train_step = lambda *args: (first.stop() if first.step == 3 else None, step(*args))[1]
    first.run()
    assert first.step == 4
    second = _trainer(data, tmp_path / "halves")
    second.run()
    assert second.step == 6
    assert _losses(tmp_path / "halves") == _losses(tmp_path / "whole")
    ends = [tmp_path / one / "weights.npz" for one in ("halves", "whole")]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_tuples_teach(data, tmp_path):
    _trainer(data, tmp_path, steps=64, num_queries=16).run()
    losses = _losses(tmp_path)
    # Each epoch's negatives are harder than a batch's of the epoch before were: means of epochs.
    assert np.mean(losses[-16:]) < 0.5 * np.mean(losses[:8])
    distances = []
    for path in sorted((tmp_path / "tuples").iterdir()):
        with np.load(path) as kept:
            distances.append(float(kept["mean_negative_distance"]))
    assert len(distances) == 8
    # Even the hardest negatives are pushed away.
    assert np.mean(distances[-2:]) > 1.2 * distances[0]


def test_two_devices_equal_one(data, tmp_path, mirrored):
    _trainer(data, tmp_path / "one", steps=4).run()
    _trainer(data, tmp_path / "two", distribution=mirrored, steps=4).run()
    np.testing.assert_allclose(_losses(tmp_path / "two"), _losses(tmp_path / "one"), rtol=1e-5)
