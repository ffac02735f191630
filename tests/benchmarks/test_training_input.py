from __future__ import annotations

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delf_tf.benchmarks import original, training_input
from delf_tf.checks import InputError
from delf_tf.datasets.records import files as record_files
from delf_tf.datasets.records import schema
from delf_tf.synthetic import benchmark_pictures

SMALL = {"image_sizes": (16,), "height": 30, "width": 40, "num_images": 4, "batch_size": 2}


def test_runs_and_describes_itself():
    result = training_input.run(**SMALL, rounds=2)
    json.dumps(result, allow_nan=False)
    assert [row["contender"] for row in result["rows"]] == list(training_input.CONTENDERS)
    for row in result["rows"]:
        assert row["image_size"] == 16
        assert row["images_per_s"] == pytest.approx(1e3 / row["ms_per_image"])
        assert row["speedup"] > 0 and row["cpu_speedup"] > 0
    assert result["rows"][0]["speedup"] == pytest.approx(1.0)
    assert result["records"]["num_records"] == 4


def _write_grey(path, num):
    with path.open("wb") as file:
        for number in range(num):
            encoded = io.BytesIO()
            Image.new("L", (40, 30), 20 * number).save(encoded, "JPEG")
            example = schema.make_example(f"{number}", encoded.getvalue(), 30, 40, number)
            record_files.write_record(file, example)


def test_reads_given_records(tmp_path):
    _write_grey(tmp_path / schema.shard_name("train", 0, 1), 3)
    pattern = str(tmp_path / "train*")
    options = {**SMALL, "contenders": ["ours"], "rounds": 1}
    result = training_input.run(file_pattern=pattern, **options)
    assert result["records"]["num_records"] == 3
    assert result["records"]["file_pattern"] == pattern
    (row,) = result["rows"]
    assert row["speedup"] is None and row["ms_per_image"] > 0


def test_the_original_way_by_hand(tmp_path):
    path = tmp_path / schema.shard_name("train", 0, 1)
    _write_grey(path, 5)
    images, labels = next(iter(original.dataset([str(path)], 80, 16)))
    assert images.dtype == tf.float32 and images.shape == (80, 16, 16, 3)
    assert set(labels.numpy().tolist()) == set(range(5))
    expected = np.broadcast_to((20.0 * labels.numpy() - 128) / 128, (16, 16, 3, 80))
    np.testing.assert_allclose(images, np.moveaxis(expected, -1, 0), atol=2 / 128)


def test_pictures_cost_as_much_as_photographs():
    encoded = benchmark_pictures.encode_picture(0, 600, 800)
    assert 90_000 < len(encoded) < 150_000
    assert encoded == benchmark_pictures.encode_picture(0, 600, 800)
    assert encoded != benchmark_pictures.encode_picture(1, 600, 800)
    assert tf.io.extract_jpeg_shape(encoded).numpy().tolist() == [600, 800, 3]
    with pytest.raises(InputError, match="must have pixels"):
        benchmark_pictures.encode_picture(0, 0, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contenders": ["theirs"]}, "contenders must be one of"),
        ({"rounds": 0}, "must be positive"),
        ({"num_images": 3}, "multiple of batch_size"),
        ({"num_images": 0}, "multiple of batch_size"),
        ({"file_pattern": "no/such*"}, "must match TFRecord shards"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        training_input.run(**{**SMALL, **options})
