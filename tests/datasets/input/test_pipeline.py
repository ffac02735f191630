from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delf_tf.checks import InputError
from delf_tf.datasets.input import pipeline as input_pipeline
from delf_tf.datasets.input.pipeline import InputPipeline, RecordStream
from delf_tf.datasets.records import files as record_files
from delf_tf.datasets.records import schema

COUNTS = (5, 4, 2)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Eleven images in three shards; image n has label n and grey level 20 n."""
    folder = tmp_path_factory.mktemp("records")
    number = 0
    for shard, count in enumerate(COUNTS):
        with (folder / schema.shard_name("train", shard, len(COUNTS))).open("wb") as file:
            for _ in range(count):
                encoded = io.BytesIO()
                Image.new("RGB", (40, 30), (20 * number,) * 3).save(encoded, "JPEG")
                record_files.write_record(
                    file, schema.make_example(f"i{number}", encoded.getvalue(), 30, 40, number)
                )
                number += 1
    return schema.open_records(str(folder))


def _stream(records, **options):
    return RecordStream(records.paths, records.counts, shuffle_window=3, **options)


def _pipeline(records, batch_size=4, **options):
    stream = _stream(records, seed=1)
    return InputPipeline(stream, batch_size, image_size=16, **options)


def _labels(dataset, num):
    return [labels.numpy().tolist() for _, labels in dataset.take(num)]


def _order(stream, start, num):
    found = stream.dataset(start).take(num)
    parsed = [(int(p), int(schema.parse_example(s)["label"])) for p, s in found]
    assert [position for position, _ in parsed] == list(range(start, start + num))
    return [label for _, label in parsed]


def test_each_epoch_has_every_record_once_in_another_order(records):
    assert records.counts == COUNTS
    order = _order(_stream(records), 0, 33)
    epochs = [order[:11], order[11:22], order[22:]]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert _order(_stream(records, seed=9), 0, 11) != epochs[0]


@pytest.mark.parametrize("start", [1, 3, 7, 11, 16, 25])
def test_the_stream_starts_anywhere(records, start):
    assert _order(_stream(records), start, 8) == _order(_stream(records), 0, 40)[start : start + 8]


def test_the_programs_seed_does_not_change_the_order(records):
    expected = _order(_stream(records), 0, 22)
    tf.random.set_seed(7)
    try:
        assert _order(_stream(records), 0, 22) == expected
    finally:
        tf.random.set_seed(None)


def test_batches_resume_bit_equal(records):
    pipeline = _pipeline(records, distortions=(("brightness", 0.3, 0.8), ("flip", 1.0, 0.5)))
    whole = list(pipeline.dataset(0).take(7))
    resumed = list(pipeline.dataset(4).take(3))
    for (images, labels), (images_again, labels_again) in zip(whole[4:], resumed):
        np.testing.assert_array_equal(labels, labels_again)
        np.testing.assert_array_equal(images, images_again)
    assert whole[0][0].shape == (4, 16, 16, 3)
    # The epoch's second picture of an image is another one.
    assert np.abs(whole[0][0].numpy() - whole[3][0].numpy()).max() > 1


def test_labels_belong_to_their_images(records):
    for images, labels in _pipeline(records).dataset(0).take(3):
        np.testing.assert_allclose(images.numpy().mean((1, 2, 3)), 20 * labels.numpy(), atol=3)


def test_workers_and_replicas_split_the_same_global_batch(records):
    pipeline = _pipeline(records)
    whole = _labels(pipeline.dataset(2), 3)
    first = _labels(pipeline.dataset(2, worker=0, num_workers=2), 3)
    second = _labels(pipeline.dataset(2, worker=1, num_workers=2), 3)
    assert [a + b for a, b in zip(first, second)] == whole
    halves = _labels(pipeline.dataset(2, num_replicas=2), 6)
    assert [a + b for a, b in zip(halves[::2], halves[1::2])] == whole
    with pytest.raises(InputError, match="multiple"):
        pipeline.dataset(0, num_replicas=3)


def test_batch_ids_name_a_steps_images(records):
    pipeline = _pipeline(records)
    labels = _labels(pipeline.dataset(5), 1)[0]
    assert pipeline.batch_ids(5) == [f"i{label}" for label in labels]


def test_rescaling_draws_one_side_a_step(records):
    pipeline = _pipeline(records, rescale_sides=(8, 12, 16))
    sides = [images.shape[1] for images, _ in pipeline.dataset(0).take(12)]
    assert set(sides) == {8, 12, 16}
    assert [images.shape[1] for images, _ in pipeline.dataset(3).take(9)] == sides[3:]


def test_labels_out_of_range_are_named(records):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"0\.\.2"):
        list(_pipeline(records, num_classes=3).dataset(0).take(3))
    assert input_pipeline.label_range(records.paths) == (0, 10)
    assert input_pipeline.label_range(records.paths, 5) == (0, 4)


def test_damaged_records_are_left_out_up_to_a_limit(records, tmp_path):
    for path in records.paths:
        shutil.copy(path, tmp_path)
    broken = tmp_path / "train-00001-of-00003"
    raw = bytearray(broken.read_bytes())
    raw[record_files.scan(broken).offsets[2] + 40] ^= 1
    broken.write_bytes(raw)
    found = schema.open_records(str(tmp_path / "train*"), check="full")
    with pytest.raises(InputError, match=r"train-00001-of-00003 record 2"):
        input_pipeline.repaired(found, str(tmp_path / "repaired"), 0)
    good = input_pipeline.repaired(found, str(tmp_path / "repaired"), 1)
    assert good.counts == (5, 3, 2)
    assert sorted(_order(_stream(good), 0, 10)) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]
    assert input_pipeline.repaired(records, str(tmp_path), 0) is records


def test_refused_options(records):
    with pytest.raises(InputError, match="crop must be one of"):
        _pipeline(records, crop="centre")
    with pytest.raises(InputError, match="distortion must be one of"):
        _pipeline(records, distortions=(("spin", 1.0, 1.0),))
    with pytest.raises(InputError, match="at least one record"):
        RecordStream((), ())
