"""DINOv2: PyTorch's tokens from its weights, positions of any size, with registers and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.extraction import folding
from delf_tf.extraction.extractor import Extractor
from delf_tf.models.backbones.dinov2 import VisionTransformer
from delf_tf.models.create import create_model
from delf_tf.models.variables import draw_values, variables_by_path
from delf_tf.models.zoo import conversion, sources
from tests.golden_weights import regenerate, relative_error

GOLDEN = Path(__file__).parents[2] / "golden/models"
SMALL = {"dim": 64, "depth": 2, "table_side": 5}


def _arrays(name):
    return regenerate(GOLDEN / f"{name}_state_dict.json")


def _images(height, width):
    return np.random.RandomState(0).uniform(0, 255, (1, height, width, 3)).astype(np.float32)


def _small(**options):
    model = create_model("dinov2_vits14_reg", seed=0, **{**SMALL, **options})
    random = np.random.RandomState(0)
    for path, variable in variables_by_path(model).items():
        if not path.endswith("kernel"):
            variable.assign(random.normal(1, 0.1, tuple(variable.shape)))
    return model


@pytest.mark.parametrize("name", ["dinov2_vits14", "dinov2_vits14_reg"])
def test_tokens_are_those_of_pytorch(name):
    """Sizes below and beyond the table of positions along one axis each, and the table's own.

    The golden was computed in float64; at the table's size it is that of Hugging Face's DINOv2
    within 2e-15, at others with registers, too, within 2e-7 (without registers that one leaves out
    the authors' offset).
    """
    model = conversion.convert_arrays("dinov2", _arrays(name))
    assert model.options["name"] == name
    with np.load(GOLDEN / f"{name}.npz") as golden:
        for height, width in ((70, 98), (84, 532)):
            size = f"{height}x{width}"
            maps = model.backbone(model.preprocess(_images(height, width)))
            patches = maps["stride14"][0][..., ::24]
            assert relative_error(maps["class"][0], golden[f"{size}/class"]) < 1e-5
            assert relative_error(patches, golden[f"{size}/patches"]) < 1e-5
            assert relative_error(maps["attention"][0], golden[f"{size}/attention"]) < 1e-5
        vector = model(_images(518, 518), outputs=("global",))["global"][0]
        wanted = golden["518x518/class"]
        assert relative_error(vector, wanted / np.linalg.norm(wanted)) < 1e-5


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("dinov2_vits14", 22_056_576),
        ("dinov2_vits14_reg", 22_058_112),
        ("dinov2_vitb14", 86_580_480),
        ("dinov2_vitl14_reg", 304_372_736),
    ],
)
def test_published_sizes(name, wanted):
    """Counted from the shapes; the authors' files hold a mask token beside."""
    dim, depth = {"s": (384, 12), "b": (768, 12), "l": (1024, 24)}[name[len("dinov2_vit")]]
    model = create_model(name, seed=0, depth=1)
    assert (model.global_dim, model.local_dim) == (dim, dim)
    block = sum(
        int(np.prod(tuple(variable.shape)))
        for path, variable in variables_by_path(model).items()
        if ".block0." in path
    )
    assert model.count_params() + (depth - 1) * block + dim == wanted


def test_conversion_tells_size_and_registers():
    arrays = _arrays("dinov2_vits14_reg")
    assert sources.recognize(arrays) == "dinov2"
    table = arrays["pos_embed"][:, : 1 + 16**2]
    model = conversion.convert_arrays("dinov2", {**arrays, "pos_embed": table})
    assert model.options["kwargs"] == {"table_side": 16}
    with pytest.raises(InputError, match="of a DINOv2 ViT-S, B or L"):
        conversion.convert_arrays("dinov2", {**arrays, "cls_token": np.zeros((1, 1, 1536))})
    del arrays["blocks.3.ls2.gamma"]
    with pytest.raises(InputError, match=r"1 missing: backbone\.block3\.scale2 \[384\]"):
        conversion.convert_arrays("dinov2", arrays)


def test_blocks_in_chunks_are_the_same_blocks():
    names = sources.SOURCES["dinov2"].names
    assert names.path("blocks.1.7.attn.qkv.weight") == "backbone.block7.qkv.kernel"
    assert names.path("blocks.7.attn.qkv.weight") == "backbone.block7.qkv.kernel"


@pytest.mark.parametrize(("size", "cells"), [((5, 14), (1, 1)), ((30, 71), (2, 5))])
def test_any_size_keeps_locations_inside(size, cells):
    result = _small()(_images(*size))
    assert result["features"].shape == (1, *cells, 64)
    rows, columns = ((np.arange(n) + 0.5) * side / n - 0.5 for n, side in zip(cells, size))
    wanted = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    np.testing.assert_allclose(result["locations"][0], wanted, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(result["global"]), 1, rtol=1e-5)


def test_static_and_dynamic_sizes_agree():
    model = _small(num_registers=0)
    dynamic = tf.function(
        lambda x: model(x)["features"], input_signature=[tf.TensorSpec([None, None, None, 3])]
    )
    for size in ((70, 70), (56, 98)):
        expected = model(_images(*size))["features"]
        np.testing.assert_allclose(dynamic(_images(*size)), expected, rtol=1e-4, atol=1e-4)


def test_the_extractor_takes_both():
    model = _small()
    image = _images(64, 90)[0].astype(np.uint8)
    extractor = Extractor(model, image_scales=(0.5, 1.0), use_local_features=True)
    got = extractor(image)
    assert got["global_descriptor"].shape == (64,)
    # 64 x 90 has 4 x 6 patches, 32 x 45 has 2 x 3.
    assert got["locations"].shape == (24 + 6, 2)
    assert np.all(np.diff(got["scores"].numpy()) <= 0)


def test_bfloat16_keeps_the_direction():
    model = _small()
    copy = folding.inference_copy(model, "bfloat16")
    names = {path: tf.as_dtype(v.dtype).name for path, v in variables_by_path(copy).items()}
    assert names["backbone.block0.qkv.kernel"] == "bfloat16"
    assert names["backbone.stem.kernel"] == names["backbone.positions"] == "float32"
    plain, half = model(_images(70, 98)), copy(_images(70, 98))
    assert {value.dtype for value in half.values()} == {tf.float32}
    assert np.sum(np.asarray(plain["global"]) * np.asarray(half["global"])) > 0.999


def test_training_reaches_every_weight():
    model = _small()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.training_outputs(_images(56, 70))["embedding"])
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(g is not None and np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients)


def test_rebuilt_from_its_configuration():
    model = _small()
    again = type(model).from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(
        again(_images(70, 84))["global"], model(_images(70, 84))["global"]
    )
    backbone = VisionTransformer(64, 1)
    backbone.build((None, None, None, 3))
    draw_values(backbone, seed=0)
    assert VisionTransformer.from_config(backbone.get_config()).get_config()["depth"] == 1


def test_refuses():
    with pytest.raises(InputError, match="dim must be a positive multiple of 64"):
        create_model("dinov2_vits14", dim=100)
    with pytest.raises(InputError, match="depth must be at least 1"):
        create_model("dinov2_vits14", depth=0)
