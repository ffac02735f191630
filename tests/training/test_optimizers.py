from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.datasets.input import addons
from delf_tf.training.optimizers import RULES, Optimizer, Settings


def _start():
    return np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)


def _gradient(step):
    return np.random.RandomState(step).standard_normal((2, 2)).astype(np.float32)


def _run(rule, num_steps, learning_rate=0.1, **options):
    variable = tf.Variable(_start())
    optimizer = Optimizer(rule, {"w": variable}, **options)
    for step in range(num_steps):
        optimizer.apply(
            [tf.constant(_gradient(step))], tf.constant(learning_rate), tf.constant(step + 1.0)
        )
    return variable.numpy(), optimizer


def test_sgd_by_hand():
    plain = Settings(momentum=0.9, nesterov=False)
    got, _ = _run("sgd", 2, settings=plain)
    velocity = _gradient(0)
    want = _start() - 0.1 * velocity
    velocity = 0.9 * velocity + _gradient(1)
    np.testing.assert_allclose(got, want - 0.1 * velocity, rtol=1e-6)
    got, _ = _run("sgd", 1)
    np.testing.assert_allclose(got, _start() - 0.1 * 1.9 * _gradient(0), rtol=1e-6)


def test_first_step_of_adam_is_the_sign():
    got, _ = _run("adam", 1)
    np.testing.assert_allclose(got, _start() - 0.1 * np.sign(_gradient(0)), rtol=1e-5)


def _theirs(name, num_steps, **options):
    variable = tf.Variable(_start())
    optimizer = addons.optimizer(name, 0.1, **options)
    for step in range(num_steps):
        optimizer.apply_gradients([(tf.constant(_gradient(step)), variable)])
    return variable.numpy()


@pytest.mark.skipif(
    addons.tensorflow_addons() is None, reason="tensorflow-addons exists for stack A only"
)
@pytest.mark.parametrize(
    "name, ours, theirs",
    [
        ("lamb", {"weight_decay": 0.02}, {"weight_decay": 0.02, "epsilon": 1e-8}),
        # Theirs decays by weight_decay itself, ours by learning rate times weight_decay.
        (
            "sgdw",
            {"weight_decay": 0.2},
            {"weight_decay": 0.02, "momentum": 0.9, "nesterov": True},
        ),
        ("radam", {"weight_decay": 0.02}, {"weight_decay": 0.02, "epsilon": 1e-8}),
    ],
)
def test_rules_are_tensorflow_addons(name, ours, theirs):
    for num_steps in (1, 4, 9):
        got, _ = _run(name, num_steps, **ours)
        np.testing.assert_allclose(
            got, _theirs(name, num_steps, **theirs), rtol=2e-5, atol=2e-6, err_msg=str(num_steps)
        )


@pytest.mark.skipif(
    addons.tensorflow_addons() is not None, reason="there it is compared with tensorflow-addons'"
)
def test_lamb_is_keras_3s():
    got, _ = _run("lamb", 5)
    np.testing.assert_allclose(got, _theirs("lamb", 5, epsilon=1e-8), rtol=1e-5)


def test_lamb_by_hand():
    weights, first, second = _start(), 0.0, 0.0
    for step in range(3):
        first = 0.9 * first + 0.1 * _gradient(step)
        second = 0.999 * second + 0.001 * _gradient(step) ** 2
        mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        direction = mean / (np.sqrt(square) + 1e-8) + 0.02 * weights
        weights = weights - 0.1 * np.linalg.norm(weights) / np.linalg.norm(direction) * direction
    got, _ = _run("lamb", 3, weight_decay=0.02)
    np.testing.assert_allclose(got, weights, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_finds_a_minimum(rule):
    variable = tf.Variable([[3.0, -2.0]])
    peak = 0.5 if rule == "radam" else 0.05
    optimizer = Optimizer(rule, {"w": variable}, settings=Settings(momentum=0.8))
    for step in range(300):
        rate = peak * (1 - step / 300)
        optimizer.apply([2 * variable], tf.constant(rate), tf.constant(step + 1.0))
    assert np.abs(variable.numpy()).max() < 0.05


@pytest.mark.parametrize("rule", RULES)
def test_weight_decay_skips_scales_and_biases(rule):
    matrix, vector = tf.Variable([[2.0, 2.0]]), tf.Variable([2.0, 2.0])
    optimizer = Optimizer(rule, {"m": matrix, "v": vector}, weight_decay=0.5)
    optimizer.apply([None, None], tf.constant(0.1), tf.constant(1.0))
    assert (matrix.numpy() < 2).all()
    np.testing.assert_array_equal(vector, [2.0, 2.0])


def test_clipping_keeps_the_direction():
    variable = tf.Variable([3.0, 4.0])
    optimizer = Optimizer(
        "sgd", {"w": variable}, clip_norm=1.0, settings=Settings(momentum=0.0, nesterov=False)
    )
    norm = optimizer.apply([tf.constant([30.0, 40.0])], tf.constant(1.0), tf.constant(1.0))
    assert norm.numpy() == pytest.approx(50.0)
    np.testing.assert_allclose(variable, [3.0 - 0.6, 4.0 - 0.8], rtol=1e-6)
    norm = optimizer.apply([tf.constant([0.3, 0.4])], tf.constant(1.0), tf.constant(2.0))
    np.testing.assert_allclose(variable, [2.1, 2.8], rtol=1e-6)


def test_sparse_gradients_are_summed():
    variable = tf.Variable(tf.zeros([3, 2]))
    optimizer = Optimizer("sgd", {"w": variable}, settings=Settings(momentum=0.0, nesterov=False))
    slices = tf.IndexedSlices(tf.ones([2, 2]), tf.constant([1, 1]), tf.constant([3, 2]))
    optimizer.apply([slices], tf.constant(1.0), tf.constant(1.0))
    np.testing.assert_array_equal(variable, [[0, 0], [-2, -2], [0, 0]])


def test_moving_average_by_hand():
    variable = tf.Variable([1.0])
    optimizer = Optimizer(
        "sgd", {"w": variable}, ema_decay=0.5, settings=Settings(momentum=0.0, nesterov=False)
    )
    optimizer.apply([tf.constant([1.0])], tf.constant(1.0), tf.constant(1.0))
    # keep = min(0.5, 2 / 11)
    np.testing.assert_allclose(optimizer.averages["w"], [2 / 11], rtol=1e-6)
    assert set(optimizer.state) == {"momentum/w", "ema/w"}


def test_two_replicas_sum_once(mirrored):
    with mirrored.scope():
        variable = tf.Variable([1.0])
        optimizer = Optimizer(
            "sgd", {"w": variable}, clip_norm=4.0, settings=Settings(momentum=0.0, nesterov=False)
        )

    @tf.function
    def step():
        def replica():
            return optimizer.apply([tf.constant([3.0])], tf.constant(1.0), tf.constant(1.0))

        return mirrored.run(replica)

    norms = mirrored.experimental_local_results(step())
    assert [norm.numpy() for norm in norms] == [6.0, 6.0]
    np.testing.assert_allclose(variable.read_value(), [1.0 - 4.0])


def test_refusals():
    variable = {"w": tf.Variable([1.0])}
    with pytest.raises(InputError, match="Did you mean 'adam'"):
        Optimizer("adamW", variable)
    with pytest.raises(InputError, match="ema_decay"):
        Optimizer("sgd", variable, ema_decay=1.0)
    with pytest.raises(InputError, match="variable to train"):
        Optimizer("sgd", {})
