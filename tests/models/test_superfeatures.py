"""Super-features: against the authors' network through the converter, and as a model of ours."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.models.create import create_model
from delf_tf.models.losses import superfeature_losses
from delf_tf.models.superfeatures import LocalFeatureIntegration
from delf_tf.models.zoo import checkpoint, conversion
from tests.golden_weights import golden_image, regenerate, relative_error

SMALL = {
    "num_superfeatures": 6,
    "superfeature_dim": 16,
    "num_iterations": 2,
    "local_dim": 4,
    "width_multiplier": 0.125,
}


@pytest.fixture(scope="module")
def converted(repository):
    arrays = regenerate(repository / "tests/golden/models/fire_r50_state_dict.json")
    return conversion.convert_arrays("superfeatures_pytorch", arrays)


@pytest.fixture(scope="module")
def small():
    return create_model("superfeatures_resnet50", seed=1, **SMALL)


def _images(batch=2, height=64, width=96):
    return np.random.RandomState(0).uniform(0, 255, (batch, height, width, 3)).astype(np.float32)


def _resized(image, factor):
    """Bilinear, cell i of n at (i + 1/2) size / n - 1/2, as the authors shrink their input."""
    for axis in (1, 2):
        size = image.shape[axis]
        new = int(size * factor)
        at = np.clip((np.arange(new) + 0.5) * size / new - 0.5, 0, size - 1)
        low = np.minimum(at.astype(int), size - 2)
        weight = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        image = (1 - weight) * image.take(low, axis) + weight * image.take(low + 1, axis)
    return image


@pytest.mark.parametrize("scale", ["1", "0.7071"])
def test_outputs_equal_the_authors(repository, converted, scale):
    with np.load(repository / "tests/golden/models/fire_r50.npz") as archive:
        golden = {k[len(scale) + 2 :]: archive[k] for k in archive if k.startswith(f"s{scale}_")}
    # The image is linear in the normalised input, so that it may be shrunk before.
    image = golden_image() if scale == "1" else _resized(golden_image(), float(scale))
    rgb = (image * 255).astype(np.float32)
    maps = converted.backbone(converted.preprocess(rgb))["stride16"]
    assert tuple(np.transpose(maps, (0, 3, 1, 2)).shape) == tuple(golden["backbone_shape"])
    stats = [np.mean(maps), np.std(maps), np.abs(maps).max()]
    np.testing.assert_allclose(stats, golden["backbone_stats"], rtol=1e-4)
    features, _ = converted.integrate(rgb, False)
    outputs = converted(rgb)
    assert relative_error(features[0, :8], golden["superfeatures_first8"]) < 1e-4
    assert relative_error(outputs["attention"][0, :4], golden["attention_first4"]) < 1e-4
    assert relative_error(outputs["strengths"][0], golden["strength"]) < 1e-4
    assert relative_error(outputs["superfeatures"][0], golden["reduced"]) < 1e-4


@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 33), (1, 1)])
def test_shapes_and_attention(small, height, width):
    outputs = small(_images(2, height, width))
    cells = (-(-height // 16), -(-width // 16))
    assert outputs["superfeatures"].shape == (2, 6, 4)
    assert outputs["strengths"].shape == (2, 6)
    assert outputs["attention"].shape == (2, 6, *cells)
    np.testing.assert_allclose(np.sum(outputs["attention"], axis=(2, 3)), 1.0, rtol=1e-5)
    assert all(output.dtype == tf.float32 for output in outputs.values())


def test_one_round_by_hand():
    # One cell: each template takes the cell's value whole, then the MLP of zeros adds nothing.
    layer = LocalFeatureIntegration(num_superfeatures=3, superfeature_dim=2, num_iterations=1)
    layer.build((None, None, None, 2))
    layer.value.set_weights([np.eye(2)])
    layer.templates.assign([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    features, attention = layer(tf.constant([[[[7.0, 9.0]]]]))
    normalised = np.array([-1.0, 1.0]) / np.sqrt(1 + 1e-5)
    expected = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]) + normalised
    np.testing.assert_allclose(features[0], expected, atol=1e-5)
    np.testing.assert_allclose(attention[0], np.ones((3, 1, 1)))


def test_gradients_reach_everything_but_the_reduction(small):
    images = _images(4)
    with tf.GradientTape() as tape:
        out = small.training_outputs(images)
        query, positive, negatives = (out["superfeatures"][i] for i in range(3))
        loss = superfeature_losses.superfeature_contrastive_loss(
            query[None], positive[None], negatives[None, None], tf.ones((1, 6), tf.bool)
        )
        loss += superfeature_losses.attention_decorrelation_loss(out["attention"])
    variables = small.trainable_variables
    assert not any(v is r for v in variables for r in small.reduction.weights)
    gradients = tape.gradient(loss, variables)
    untouched = [v.name for v, g in zip(variables, gradients) if g is None]
    assert untouched == []
    assert all(np.isfinite(g).all() for g in gradients)
    np.testing.assert_allclose(np.linalg.norm(out["superfeatures"], axis=-1), 1, rtol=1e-5)
    assert out["embedding"].shape == (4, 16)


def test_a_graph_of_any_size_equals_eager(small):
    call = tf.function(
        lambda x: small(x)["superfeatures"],
        input_signature=[tf.TensorSpec([None, None, None, 3])],
    )
    for height, width in ((48, 80), (33, 64)):
        images = _images(1, height, width)
        np.testing.assert_allclose(call(images), small(images)["superfeatures"], atol=1e-4)


def test_mixed_bfloat16_gives_float32(small, tmp_path):
    path = checkpoint.save_weights(small, tmp_path / "weights.npz")
    policy = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = create_model("superfeatures_resnet50", weights=path)
        outputs = model(_images())
    finally:
        tf.keras.mixed_precision.set_global_policy(policy)
    assert all(output.dtype == tf.float32 for output in outputs.values())
    np.testing.assert_allclose(outputs["strengths"], small(_images())["strengths"], rtol=0.05)


def test_without_reduction():
    model = create_model("superfeatures_resnet50", seed=0, **{**SMALL, "local_dim": 0})
    assert model.local_dim == 16
    assert model(_images(1))["superfeatures"].shape == (1, 6, 16)


@pytest.mark.parametrize(
    "bad",
    [
        {"num_superfeatures": 0},
        {"superfeature_dim": 1},
        {"num_iterations": 0},
        {"local_dim": -1},
    ],
)
def test_bad_options_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        create_model("superfeatures_resnet50", **bad)


def test_compact_form():
    outputs = create_model("superfeatures_mobilenet_v2", seed=0)(_images(1))
    assert outputs["superfeatures"].shape == (1, 128, 64)
