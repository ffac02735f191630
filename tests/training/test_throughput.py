from __future__ import annotations

import pytest
import tensorflow as tf

from delf_tf.training import throughput


def test_flops_of_a_convolution_by_hand():
    kernel = tf.ones([3, 3, 3, 5])

    def convolve(images):
        return tf.nn.conv2d(images, kernel, 1, "SAME")

    assert throughput.forward_flops(convolve, 8) == 2 * 8 * 8 * 3 * 3 * 3 * 5


def test_peak_is_positive():
    assert throughput.measured_peak_flops() > 0


def test_rates(monkeypatch):
    times = iter([0.0, 1.0, 3.0, 4.0, 4.0])
    monkeypatch.setattr(throughput.time, "monotonic", lambda: next(times))
    meter = throughput.Meter(batch_size=8, step_flops=10.0, peak_flops=20.0)
    assert meter.wait(lambda: "batch") == "batch"
    meter.step()
    meter.step()
    assert meter.read() == {
        "steps_per_second": pytest.approx(0.5),
        "images_per_second": pytest.approx(4.0),
        "input_wait_share": pytest.approx(0.5),
        "model_flops_utilization": pytest.approx(0.25),
    }
