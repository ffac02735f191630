from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from delf_tf import create_model
from delf_tf.benchmarks import extraction as benchmark
from delf_tf.benchmarks import measuring, network_rate
from delf_tf.benchmarks.original import OriginalWay
from delf_tf.checks import InputError
from delf_tf.extraction.extractor import Extractor
from delf_tf.features.formats import delf_format


@pytest.fixture(scope="module")
def model():
    return create_model("delg_mobilenet_v2", width_multiplier=0.25, seed=0)


def test_runs_and_describes_itself(model):
    result = benchmark.run(
        model=model,
        height=48,
        width=64,
        settings=["global"],
        contenders=["original", "bfloat16"],
        num_images=1,
        rounds=1,
    )
    json.dumps(result, allow_nan=False)
    original, ours = result["rows"]
    assert original["setting"] == ours["setting"] == "3-scale global"
    assert original["speedup"] == pytest.approx(1.0)
    assert ours["speedup"] > 0 and ours["ms_per_image"] > 0
    assert original["cosine"] == pytest.approx(1.0, abs=1e-5) and ours["cosine"] > 0.99
    (network,) = result["network"]
    assert network["precision"] == "bfloat16" and network["gflop"] > 0


def test_openvino_is_a_contender(model):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    options = {"settings": ["global"], "num_images": 1, "rounds": 1}
    result = benchmark.run(model=model, height=48, width=64, **options)
    assert [row["contender"] for row in result["rows"]] == list(benchmark.CONTENDERS)
    cosines = {row["contender"]: row["cosine"] for row in result["rows"]}
    # Calibrated on the one picture, a few channels in 8 bits keep less than a trained network's.
    assert cosines.pop("openvino_int8") > 0.9
    assert min(cosines.values()) > 0.999
    assert [row["precision"] for row in result["network"]] == ["float32", "bfloat16"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": ["both"]}, "settings"),
        ({"contenders": ["theirs"]}, "contenders"),
        ({"rounds": 0}, "rounds"),
    ],
)
def test_bad_arguments(model, options, message):
    with pytest.raises(InputError, match=message):
        benchmark.run(model=model, **options)


def test_the_original_way_gives_the_extractors_features(model, tmp_path):
    options = {"image_scales": [0.5, 1.0], "global_scales_ind": [1], "use_local_features": True}
    image = np.random.RandomState(0).randint(0, 256, (96, 128, 3), np.uint8)
    way = OriginalWay(model, max_num_features=30, **options)
    written = way.write(image, tmp_path / "a")
    expected = Extractor(model, max_num_features=30, **options)(image)
    np.testing.assert_allclose(written.global_descriptor, expected["global_descriptor"], atol=1e-5)
    np.testing.assert_allclose(written.local.descriptors, expected["descriptors"], atol=1e-4)
    np.testing.assert_allclose(written.local.locations, expected["locations"], atol=1e-4)
    np.testing.assert_array_equal(
        delf_format.read_datum(tmp_path / "a.delg_global"), written.global_descriptor
    )
    assert len(delf_format.read_delf(tmp_path / "a.delg_local")) == 30


def test_operations_by_hand():
    """5x6 outputs of a 3x3 convolution from 2 to 4 channels; depthwise; a product."""
    x = tf.zeros([1, 5, 6, 2])

    @tf.function
    def network():
        y = tf.nn.conv2d(x, tf.zeros([3, 3, 2, 4]), 1, "SAME")
        y = tf.nn.depthwise_conv2d(y, tf.zeros([3, 3, 4, 1]), [1, 1, 1, 1], "SAME")
        return tf.matmul(y[0, 0], tf.zeros([4, 7]))

    expected = 2 * 30 * (9 * 2 * 4 + 9 * 4) + 2 * 6 * 4 * 7
    assert network_rate.flops(network.get_concrete_function()) == expected


def test_peak_memory_counts_from_the_reset():
    measuring.reset_peak_memory()
    before = measuring.peak_memory_mb()
    if before is None:
        pytest.skip("this system does not tell a process its peak memory")
    np.ones(50 << 20, np.uint8).sum()
    assert measuring.peak_memory_mb() >= before + 30
