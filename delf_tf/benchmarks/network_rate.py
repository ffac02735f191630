"""How near a network comes to what the machine can do: its rate beside that of matrix products."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from delf_tf.extraction import folding
from delf_tf.models.retrieval_model import RetrievalModel

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")


def measure(
    model: RetrievalModel,
    precisions: Sequence[str],
    height: int,
    width: int,
    *,
    rounds: int = 5,
    matmul_side: int = 2048,
) -> list[dict[str, Any]]:
    """Times the folded network on one image and square matrix products, interleaved.

    Args:
      model: with a global descriptor.
      precisions: of the copies.
      height: of the image, pixels.
      width: of the image, pixels.
      rounds: timed; the median counts, for the products of the best of three in each.
      matmul_side: of the products.

    Returns:
      JSON-able, one a precision: "ms", "gflop" of the convolutions and products for an image (a
      multiplication and an addition count one each), "gflop_per_s", "matmul_gflop_per_s", "share"
      of that rate (the median over rounds).
    """
    image = tf.constant(np.random.RandomState(0).uniform(0, 255, (1, height, width, 3)), tf.float32)
    networks = {name: _network(folding.inference_copy(model, name), image) for name in precisions}
    products = {name: _product(matmul_side, name) for name in precisions}
    seconds: dict[str, list[float]] = {name: [] for name in precisions}
    product_seconds: dict[str, list[float]] = {name: [] for name in precisions}
    for _ in range(rounds):
        for name in precisions:
            seconds[name].append(_timed(networks[name]))
            product_seconds[name].append(min(_timed(products[name]) for _ in range(3)))
    operations = flops(networks[precisions[0]]) if precisions else 0.0
    rows = []
    for name in precisions:
        median = statistics.median(seconds[name])
        product = 2.0 * matmul_side**3
        peak = product / statistics.median(product_seconds[name])
        # Of the same round, which a busy machine slows alike.
        pairs = zip(seconds[name], product_seconds[name])
        share = statistics.median(operations / one * other / product for one, other in pairs)
        rows.append(
            {
                "precision": name,
                "ms": 1e3 * median,
                "gflop": operations / 1e9,
                "gflop_per_s": operations / median / 1e9,
                "matmul_gflop_per_s": peak / 1e9,
                "share": share,
            }
        )
    return rows


def flops(function: tf.types.experimental.ConcreteFunction) -> float:
    """Returns the operations of a graph's convolutions and matrix products, all shapes known."""
    total = 0.0
    for node in function.graph.get_operations():
        if node.type in _CONVOLUTIONS:
            kernel, output = node.inputs[1].shape, node.outputs[0].shape
            taps = kernel[0] * kernel[1] * (kernel[2] if node.type == "Conv2D" else 1)
            total += 2.0 * taps * output.num_elements()
        elif node.type == "MatMul":
            inner = node.inputs[0].shape[0 if node.get_attr("transpose_a") else 1]
            total += 2.0 * inner * node.outputs[0].shape.num_elements()
    return total


def _network(model: RetrievalModel, image: tf.Tensor) -> tf.types.experimental.ConcreteFunction:
    def describe() -> tf.Tensor:
        return model(image, training=False, outputs=("global",))["global"]

    return tf.function(describe).get_concrete_function()


def _product(side: int, precision: str) -> Callable[[], tf.Tensor]:
    left, right = (
        tf.cast(tf.random.stateless_normal([side, side], [0, seed]), precision) for seed in (0, 1)
    )
    return tf.function(lambda: tf.matmul(left, right)).get_concrete_function()


def _timed(function: Callable[[], tf.Tensor]) -> float:
    start = time.perf_counter()
    function()[0, 0].numpy()
    return time.perf_counter() - start
