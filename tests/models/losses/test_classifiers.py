"""Classification heads: the released CurricularFace, sampling, tracking, precision, replicas."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.models.losses import classifiers
from delf_tf.models.losses import functions as losses

NAMES = list(classifiers.CLASSIFIERS)


def _embeddings(batch=4, dim=8):
    rng = np.random.default_rng(0)
    return tf.constant(rng.standard_normal((batch, dim)).astype(np.float32))


def test_curricularface_equals_dolgs_release(repository):
    with np.load(repository / "tests/golden/models/curricular_head.npz") as archive:
        golden = dict(archive)
    head = classifiers.CurricularFaceClassifier(10)
    head.build((None, 16))
    head.class_centres.assign(golden["weight"])
    for step in range(3):
        features = tf.constant(golden[f"step{step}/features"])
        with tf.GradientTape() as tape:
            tape.watch(features)
            logits, targets = head(features, golden[f"step{step}/targets"], training=True)
            loss = tf.reduce_mean(losses.softmax_cross_entropy(targets, logits))
        # tf.Variable or Keras variable: a tape takes what the layer lists.
        gradients = tape.gradient(loss, [features, _value(head.class_centres)])
        np.testing.assert_allclose(logits, golden[f"step{step}/logits"], atol=1e-4, rtol=1e-5)
        np.testing.assert_allclose(loss, golden[f"step{step}/loss"], rtol=1e-5)
        np.testing.assert_allclose(gradients[0], golden[f"step{step}/grad_features"], atol=1e-4)
        np.testing.assert_allclose(gradients[1], golden[f"step{step}/grad_weight"], atol=1e-4)
        difficulty = np.asarray(head.difficulty)
        np.testing.assert_allclose(difficulty, golden[f"step{step}/t_after"][0], atol=1e-7)


def _value(variable):
    return getattr(variable, "value", variable) if hasattr(tf.keras, "ops") else variable


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_tracked_and_learn(name):
    head = classifiers.create_classifier(name, 5)
    x, labels = _embeddings(), tf.constant([0, 1, 4, 4])
    with tf.GradientTape() as tape:
        logits, targets = head(x, labels, training=True)
        loss = losses.softmax_cross_entropy(targets, logits)
    assert logits.shape == (4, 5)
    np.testing.assert_array_equal(targets, labels)
    names = {v.name.split("/")[-1].split(":")[0] for v in head.trainable_variables}
    assert names == ({"class_centres", "bias"} if name == "softmax" else {"class_centres"})
    for gradient in tape.gradient(loss, head.trainable_variables):
        assert np.abs(gradient).max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_margins_act_in_training_only(name):
    head = classifiers.create_classifier(name, 5)
    x, labels = _embeddings(), tf.constant([0, 1, 4, 4])
    plain = head(x)
    unchanged, targets = head(x, labels, training=False)
    np.testing.assert_array_equal(plain, unchanged)
    np.testing.assert_array_equal(targets, labels)
    trained = head(x, labels, training=True)[0].numpy()
    differs = np.abs(trained - plain)[np.arange(4), labels] > 1e-3
    assert differs.all() != (name == "softmax")


@pytest.mark.parametrize("name", NAMES)
def test_heads_stay_float32_under_bfloat16(name):
    head = classifiers.create_classifier(name, 5)
    logits = head(tf.cast(_embeddings(), tf.bfloat16))
    assert logits.dtype == tf.float32
    policy = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        head = classifiers.create_classifier(name, 5)
        logits, _ = head(_embeddings(), tf.zeros(4, tf.int32), training=True)
        assert logits.dtype == tf.float32
    finally:
        tf.keras.mixed_precision.set_global_policy(policy)


@pytest.mark.parametrize("name", NAMES)
def test_heads_serialise(name):
    head = classifiers.create_classifier(name, 7, num_sampled=5)
    config = tf.keras.layers.serialize(head)
    again = tf.keras.layers.deserialize(config)
    assert type(again) is type(head)
    assert again.get_config() == head.get_config()


def test_sampling_keeps_the_batchs_classes():
    labels = tf.constant([3, 99, 3, 0])
    sample = tf.function(classifiers.sample_classes, jit_compile=True)
    for seed in range(5):
        classes, targets = sample(labels, 100, 6, tf.constant([1, seed]))
        assert len(set(classes.numpy())) == 6
        np.testing.assert_array_equal(tf.gather(classes, targets), labels)
    again, _ = sample(labels, 100, 6, tf.constant([1, 4]))
    np.testing.assert_array_equal(classes, again)


def test_sampling_all_classes_gives_the_full_loss():
    full = classifiers.ArcFaceClassifier(6)
    sampled = classifiers.ArcFaceClassifier(6, num_sampled=6)
    x, labels = _embeddings(), tf.constant([0, 5, 2, 2])
    full(x), sampled(x)
    sampled.class_centres.assign(_value(full.class_centres))
    values = []
    for head in (full, sampled):
        logits, targets = head(x, labels, training=True)
        values.append(losses.softmax_cross_entropy(targets, logits))
    # A loss is a difference of numbers as large as the largest logit: near 0 it keeps
    # the absolute rounding of those, not a relative one of its own.
    rounding = np.finfo(np.float32).eps * np.max(values)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-5, atol=rounding)


def test_sampled_gradients_are_sparse():
    head = classifiers.ArcFaceClassifier(1000, num_sampled=8)
    with tf.GradientTape() as tape:
        logits, targets = head(_embeddings(), tf.constant([1, 2, 3, 999]), training=True)
        loss = losses.softmax_cross_entropy(targets, logits)
    assert logits.shape == (4, 8)
    (gradient,) = tape.gradient(loss, head.trainable_variables)
    assert isinstance(gradient, tf.IndexedSlices)
    assert gradient.values.shape == (8, 8)
    assert head(_embeddings()).shape == (4, 1000)


_TWO_REPLICAS = """
import numpy as np, tensorflow as tf
from delf_tf.models.losses import classifiers, functions as losses
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
x = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
y = np.array([0, 1, 2, 3, 4, 0, 1, 2], "int32")

def run(strategy):
    with strategy.scope():
        head = classifiers.CurricularFaceClassifier(5)
        head.build((None, 4))
        head.set_weights([w * 0 if w.ndim == 0 else np.eye(5, 4) for w in head.get_weights()])
    def step(batch):
        logits, targets = head(*batch, training=True)
        return losses.softmax_cross_entropy(targets, logits)
    data = strategy.experimental_distribute_dataset(
        tf.data.Dataset.from_tensor_slices((x, y)).batch(8))
    out = [tf.function(lambda b: strategy.run(step, (b,)))(batch) for batch in data]
    parts = [p.numpy() for p in strategy.experimental_local_results(out[0])]
    return np.concatenate(parts), [w for w in head.get_weights() if w.ndim == 0][0]

one = run(tf.distribute.get_strategy())
two = run(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
assert one[1] != 0
np.testing.assert_allclose(one[0], two[0], rtol=1e-5)
np.testing.assert_allclose(one[1], two[1], rtol=1e-5)
"""


def test_curricularface_is_the_same_on_two_replicas():
    done = subprocess.run(
        [sys.executable, "-c", _TWO_REPLICAS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="Did you mean 'arcface'"):
        classifiers.create_classifier("arcfase", 5)
    with pytest.raises(InputError, match="num_classes"):
        classifiers.SoftmaxClassifier(0)
    with pytest.raises(InputError, match="num_sampled"):
        classifiers.ArcFaceClassifier(5, num_sampled=6)
    with pytest.raises(InputError, match="margin"):
        classifiers.ArcFaceClassifier(5, margin=4.0)
    head = classifiers.ArcFaceClassifier(50, num_sampled=3)
    with pytest.raises(InputError, match="num_sampled must be at least the batch"):
        head(_embeddings(), tf.zeros(4, tf.int32), training=True)
