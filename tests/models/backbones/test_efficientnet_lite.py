"""EfficientNet-Lite: PyTorch's maps, from its weights; what every backbone must do beside that."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.extraction import folding
from delf_tf.models.backbones.create import create_backbone
from delf_tf.models.backbones.inverted_residuals import InvertedResiduals
from delf_tf.models.create import create_model
from delf_tf.models.variables import variables_by_path
from delf_tf.models.zoo import conversion, foreign_files, sources
from tests.golden_weights import regenerate, relative_error

GOLDEN = Path(__file__).parents[2] / "golden/models"
SOURCE = "efficientnet_lite_pytorch"
PUBLISHED = {0: 4_694_073, 1: 5_470_408, 2: 6_150_232}


def _images(height, width):
    return np.random.RandomState(0).uniform(0, 255, (1, height, width, 3)).astype(np.float32)


def _arrays(variant):
    return regenerate(GOLDEN / f"efficientnet_lite{variant}_state_dict.json")


@pytest.fixture(scope="module", params=[0, 2])
def converted(request):
    return request.param, conversion.convert_arrays(SOURCE, _arrays(request.param))


def test_maps_are_those_of_pytorch(converted):
    """Even and odd sizes, which TensorFlow's padding treats unlike; the golden was float64."""
    variant, model = converted
    with np.load(GOLDEN / f"efficientnet_lite{variant}.npz") as golden:
        for height, width in ((64, 96), (77, 51)):
            images = _images(height, width)
            for network in (model, folding.inference_copy(model)):
                maps = network.backbone(network.preprocess(images))
                for level in ("stride4", "stride8", "stride16", "stride32"):
                    got = np.asarray(maps[level])[0]
                    got = got[..., :: got.shape[-1] // 32]
                    assert relative_error(got, golden[f"{height}x{width}/{level}"]) < 1e-5


def test_the_variant_is_told_by_the_arrays(converted):
    variant, model = converted
    assert model.options["name"] == f"gem_efficientnet_lite{variant}"
    assert model.options["preprocessing"] == {
        "channel_order": "RGB",
        "mean": [127.0] * 3,
        "std": [128.0] * 3,
    }


@pytest.mark.parametrize("variant", PUBLISHED)
def test_published_sizes(variant):
    """The published files hold the classifier and a counter a normalisation beside our weights."""
    model = create_model(f"gem_efficientnet_lite{variant}", seed=0)
    norms = sum(path.endswith("gamma") for path in variables_by_path(model))
    assert model.count_params() + 1281 * 1000 + norms == PUBLISHED[variant]


@pytest.mark.skipif(
    "DELF_TF_EFFICIENTNET_LITE" not in os.environ,
    reason="DELF_TF_EFFICIENTNET_LITE must name a folder of lite{0,1,2}.npz, the published arrays, "
    "and lite{0,1,2}_real.npz, what PyTorch made of an image",
)
@pytest.mark.parametrize("variant", PUBLISHED)
def test_the_published_weights_give_pytorchs_maps(variant):
    folder = Path(os.environ["DELF_TF_EFFICIENTNET_LITE"])
    arrays = foreign_files.read_arrays(folder / f"lite{variant}.npz")
    model = conversion.convert_arrays(SOURCE, arrays)
    with np.load(folder / f"lite{variant}_real.npz") as golden:
        for size in ("224x320", "225x317"):
            maps = model.backbone(model.preprocess(golden[f"{size}/image"]))
            for level, got in maps.items():
                assert relative_error(got, golden[f"{size}/{level}/torch.float64"]) < 1e-5


def test_arrays_of_no_variant_are_refused():
    arrays = _arrays(0)
    fewer = {name: a for name, a in arrays.items() if not name.startswith("_blocks.15.")}
    with pytest.raises(InputError, match=r"EfficientNet-Lite 0, 1 or 2\..*blocks=15"):
        conversion.convert_arrays(SOURCE, fewer)
    with pytest.raises(InputError, match=r"1 missing: backbone\.stem"):
        conversion.convert_arrays(
            SOURCE, {name: a for name, a in arrays.items() if name != "_conv_stem.weight"}
        )
    assert sources.recognize(arrays) == SOURCE


def test_stages_are_repeated_but_for_the_ends():
    blocks = [create_backbone(f"efficientnet_lite{variant}")[0] for variant in (0, 1, 2)]
    names = [{path.split(".")[0] for path in map(str, vars(one))} for one in blocks]
    assert [sum(name.startswith("block") for name in one) for one in names] == [16, 21, 21]
    assert [one.channels("stride16") for one in blocks] == [672, 672, 720]


def test_no_masking_where_padding_depends_on_the_size():
    backbone, _ = create_backbone("efficientnet_lite0", width_multiplier=0.25)
    assert not backbone.pads_with_zeros


@pytest.mark.parametrize("family", ["gem", "delg", "dolg"])
def test_every_family_has_it(family):
    model = create_model(f"{family}_efficientnet_lite1", seed=0, width_multiplier=0.25)
    result = model(_images(33, 70))
    assert result["global"].shape == (1, model.global_dim)
    np.testing.assert_allclose(np.linalg.norm(result["global"]), 1, rtol=1e-5)
    if "local" in model.output_names_available:
        cells = [model.local_grid(size).num_cells for size in (33, 70)]
        assert result["features"].shape == (1, *cells, model.local_dim)


def test_training_reaches_every_weight():
    model = create_model("gem_efficientnet_lite0", seed=0, width_multiplier=0.25)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.training_outputs(_images(64, 64), training=True)["embedding"])
    gradients = tape.gradient(loss, model.trainable_variables)
    assert all(gradient is not None for gradient in gradients)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_refuses():
    with pytest.raises(InputError, match="network must be one of mobilenet_v2, efficientnet_lite0"):
        InvertedResiduals("efficientnet_lite3")
    with pytest.raises(InputError, match="width_multiplier must be in"):
        create_backbone("efficientnet_lite0", width_multiplier=0.0)
