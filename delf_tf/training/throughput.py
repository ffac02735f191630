"""Throughput of training: steps and images a second, input wait, model FLOPs utilisation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import tensorflow as tf

T = TypeVar("T")


class Meter:
    """Measures between two readings."""

    def __init__(self, batch_size: int, step_flops: float = 0.0, peak_flops: float = 0.0):
        """Starts measuring.

        Args:
          batch_size: images a step.
          step_flops: floating-point operations of a step; 0 if unknown.
          peak_flops: of the hardware, a second; 0 if unknown.
        """
        self._batch_size, self._step_flops, self._peak_flops = batch_size, step_flops, peak_flops
        self._reset()

    def _reset(self) -> None:
        self._start, self._waited, self._steps = time.monotonic(), 0.0, 0

    def wait(self, get: Callable[[], T]) -> T:
        """Returns `get()`, counting its time as waiting for input."""
        start = time.monotonic()
        result = get()
        self._waited += time.monotonic() - start
        return result

    def step(self) -> None:
        """Counts a step."""
        self._steps += 1

    def read(self) -> dict[str, float]:
        """Returns the rates since the last reading, and starts anew."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = self._steps / elapsed
        result = {
            "steps_per_second": rate,
            "images_per_second": rate * self._batch_size,
            "input_wait_share": self._waited / elapsed,
        }
        if self._step_flops and self._peak_flops:
            result["model_flops_utilization"] = rate * self._step_flops / self._peak_flops
        self._reset()
        return result


def forward_flops(function: Callable[[tf.Tensor], object], image_size: int) -> float:
    """Returns the floating-point operations of `function` on one image [1, S, S, 3].

    Multiplications and additions count one each. Training takes about three times as many: forward,
    gradients of activations, gradients of weights.
    """
    spec = tf.TensorSpec([1, image_size, image_size, 3], tf.float32)
    graph = tf.function(function).get_concrete_function(spec).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    profile = tf.compat.v1.profiler.profile(graph, cmd="scope", options=options)
    return float(profile.total_float_ops)


def measured_peak_flops() -> float:
    """Returns the operations a second of square matrix products on the default device."""
    side, seconds = 1024, 0.3
    matrix = tf.random.stateless_normal([side, side], [0, 0])
    multiply = tf.function(tf.matmul)
    float(multiply(matrix, matrix)[0, 0])
    best, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.monotonic()
        float(multiply(matrix, matrix)[0, 0])
        best = max(best, 2.0 * side**3 / (time.monotonic() - start))
    return best
