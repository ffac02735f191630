"""The compact network: one pass for all heads, and a wall that only distillation passes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.models.create import create_model
from delf_tf.models.losses.functions import distillation_loss
from delf_tf.training.objective import Objective

SMALL = {"width_multiplier": 0.125, "feature_dim": 1024, "fusion_dim": 8, "attention_dim": 8}


@pytest.fixture(scope="module")
def images():
    return tf.constant(np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3)), tf.float32)


@pytest.mark.parametrize(
    ("options", "width"),
    [({}, 1024), ({"embedding_dim": 12}, 12), ({"descriptor": "fused"}, 16)],
)
def test_gives_the_descriptor_asked_for_and_local_features(images, options, width):
    model = create_model("compact_resnet20", seed=0, **{**SMALL, **options})
    found = model(images)
    assert found["global"].shape == (2, width)
    assert model.global_dim == width
    np.testing.assert_allclose(np.linalg.norm(found["global"], axis=1), 1, atol=1e-5)
    assert found["features"].shape == (2, 4, 3, 64)
    assert found["scores"].shape == (2, 4, 3)


def test_fused_halves_are_orthogonal(images):
    model = create_model("compact_resnet20", seed=0, descriptor="fused", **SMALL)
    fused = model(images, outputs=("global",))["global"].numpy()
    along, orthogonal = fused[:, :8], fused[:, 8:]
    np.testing.assert_allclose((along * orthogonal).sum(axis=1), 0, atol=1e-6)
    assert np.linalg.norm(orthogonal, axis=1).min() > 0


def test_weights_serve_either_descriptor(images, tmp_path):
    from delf_tf.models.zoo import checkpoint

    pooled = create_model("compact_resnet20", seed=3, **SMALL)
    checkpoint.save_weights(pooled, tmp_path / "weights.npz")
    fused = create_model("compact_resnet20", tmp_path / "weights.npz", descriptor="fused")
    np.testing.assert_array_equal(fused(images)["features"], pooled(images)["features"])
    assert fused.global_dim == 16


def test_only_distillation_reaches_the_backbone(images):
    model = create_model("compact_resnet20", seed=0, **SMALL)
    backbone = model.backbone.trainable_weights
    with tf.GradientTape(persistent=True) as tape:
        outputs = model.training_outputs(images)
        learnt = tf.reduce_sum(tf.square(outputs["distilled"]))
        heads = sum(
            tf.reduce_sum(tf.square(outputs[name]))
            for name in ("embedding", "attention_pooled", "reconstruction")
        )
    assert all(one is None for one in tape.gradient(heads, backbone))
    assert all(one is not None for one in tape.gradient(learnt, backbone))


def test_distillation_loss_by_hand():
    target = tf.constant([[[[3.0, 0.0]]], [[[0.0, 1.0]]]])
    learnt = tf.constant([[[[1.0, 0.0]]], [[[0.0, 1.0]]]])
    # Energy (9 + 1) / 4 = 2.5; the first image's mean squared error is 4 / 2.
    np.testing.assert_allclose(distillation_loss(learnt, target), [0.8, 0.0], rtol=1e-6)
    np.testing.assert_allclose(np.mean(distillation_loss(0 * target, target)), 1, rtol=1e-6)
    with pytest.raises(InputError, match="same shape"):
        distillation_loss(learnt[..., :1], target)


def test_objective_needs_a_teacher_of_the_same_width(images):
    model = create_model("compact_resnet20", seed=0, **SMALL)
    with pytest.raises(InputError, match="must have a teacher"):
        Objective(model, 4, weights={"distillation": 1.0})
    narrow = create_model("gem_resnet20", seed=1, width_multiplier=0.125)
    with pytest.raises(InputError, match="as many channels"):
        Objective(model, 4, weights={"distillation": 1.0}, teacher=narrow)


def test_a_student_learns_the_teachers_map(images):
    teacher = create_model("gem_resnet20", seed=1, width_multiplier=0.125)
    width = teacher.backbone.channels("stride16")
    model = create_model("compact_resnet20", seed=0, **{**SMALL, "feature_dim": width})
    weights = {"descriptor": 0.0, "attention": 0.0, "distillation": 1.0}
    objective = Objective(model, 2, weights=weights, teacher=teacher)
    variables = list(objective.trainable_variables(["backbone", "expansion"]).values())
    optimizer = tf.keras.optimizers.Adam(1e-2)
    labels = tf.constant([0, 1])
    values = []
    for _ in range(25):
        with tf.GradientTape() as tape:
            losses, _ = objective(images, labels)
            loss = tf.reduce_mean(losses["distillation"])
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
        values.append(float(loss))
    assert values[-1] < 0.5 * values[0]


def test_a_whitening_becomes_the_last_layer(images):
    from delf_tf.models.zoo.whitened import with_whitening
    from delf_tf.retrieval.vectors.whitening import Whitening

    model = create_model("compact_resnet20", seed=0, **SMALL)
    random = np.random.default_rng(0)
    fitted = Whitening(random.normal(size=1024) / 32, random.normal(size=(12, 1024)), "pca")
    whitened = with_whitening(model, [(fitted.mean, fitted.projection)])
    before, after = model(images), whitened(images)
    np.testing.assert_allclose(after["global"], fitted.apply(before["global"].numpy()), atol=1e-5)
    np.testing.assert_array_equal(after["features"], before["features"])
    assert whitened.options["kwargs"]["embedding_dim"] == 12
    with pytest.raises(InputError, match="without a whitening"):
        with_whitening(whitened, [(fitted.mean, fitted.projection)])
    with pytest.raises(InputError, match="mean"):
        with_whitening(model, [(fitted.mean[:5], fitted.projection)])
