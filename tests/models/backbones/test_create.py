"""Backbones: named maps, sizes, forms, networks of tf.keras.applications."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.models.backbones import keras_networks
from delf_tf.models.backbones.backbone import scale_channels
from delf_tf.models.backbones.create import create_backbone
from delf_tf.models.backbones.inverted_residuals import InvertedResiduals
from delf_tf.models.backbones.resnet import ResNet
from delf_tf.models.create import create_model
from delf_tf.models.layers import IMAGENET_RGB
from delf_tf.models.variables import draw_values, variables_by_path
from delf_tf.models.zoo import conversion
from tests.golden_arrays import multiscale_image
from tests.golden_weights import regenerate


def _built(name, **options):
    backbone, _ = create_backbone(name, **options)
    backbone.build((None, None, None, 3))
    draw_values(backbone, seed=0)
    return backbone


def _images(height, width):
    return np.random.RandomState(0).standard_normal((1, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize("form", ["torchvision", "keras", "keras_applications"])
def test_resnet_maps(form):
    backbone = _built("resnet50", backbone_form=form, width_multiplier=0.125)
    for height, width in ((7, 7), (32, 64), (33, 65), (79, 113)):
        maps = backbone(_images(height, width))
        assert tuple(maps) == backbone.levels == ("stride4", "stride8", "stride16", "stride32")
        for level, feature_map in maps.items():
            cells = [backbone.grid(level, size).num_cells for size in (height, width)]
            assert feature_map.shape == (1, *cells, backbone.channels(level))
            assert np.all(np.asarray(feature_map) >= 0)


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite0"])
def test_maps_of_inverted_residuals(name):
    backbone = _built(name, width_multiplier=0.25)
    for height, width in ((1, 1), (32, 64), (45, 71)):
        maps = backbone(_images(height, width))
        assert tuple(maps) == backbone.levels
        for level, feature_map in maps.items():
            stride = int(level[len("stride") :])
            cells = [-(-size // stride) for size in (height, width)]
            assert feature_map.shape == (1, *cells, backbone.channels(level))
            assert np.all((np.asarray(feature_map) >= 0) & (np.asarray(feature_map) <= 6))


def test_published_channels():
    assert [ResNet(50).channels(f"stride{s}") for s in (4, 8, 16, 32)] == [256, 512, 1024, 2048]
    mobilenet = InvertedResiduals("mobilenet_v2")
    assert [mobilenet.channels(f"stride{s}") for s in (2, 4, 8, 16, 32)] == [
        96,
        144,
        192,
        576,
        1280,
    ]


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "efficientnet_lite2"])
def test_deeper_stages_do_not_run_or_exist(name):
    whole = _built(name, width_multiplier=0.125)
    assert "stride32" not in whole(_images(32, 32), last="stride16")
    part, _ = create_backbone(name, width_multiplier=0.125, last="stride16")
    maps = part(_images(32, 32))
    assert tuple(maps) == part.levels
    assert part.levels[-1] == "stride16"
    assert set(variables_by_path(part)) < set(variables_by_path(whole))


@pytest.mark.parametrize("last", ["stride2", "stride4", "stride8", "stride16"])
@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite0"])
def test_up_to_a_level_the_map_is_the_same(name, last):
    whole = _built(name, width_multiplier=0.125)
    part = _built(name, width_multiplier=0.125, last=last)
    expected = whole(_images(40, 40))[last]
    np.testing.assert_allclose(part(_images(40, 40))[last], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "multiplier", "wanted"),
    [(64, 1.0, 64), (32, 0.25, 8), (24, 0.5, 16), (16, 0.1, 8), (24, 1.4, 32), (320, 0.35, 112)],
)
def test_scale_channels(channels, multiplier, wanted):
    assert scale_channels(channels, multiplier) == wanted


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet5", {}, "Did you mean 'resnet50'"),
        ("resnet50", {"backbone_form": "pytorch"}, "backbone_form must be one of torchvision"),
        ("resnet50", {"width_multiplier": -1.0}, "width_multiplier must be in"),
        ("resnet50", {"last": "stride64"}, "last must be one of"),
        ("resnet50_v2", {"width_multiplier": 0.5}, "width_multiplier must not be set"),
        ("keras:ResNet5", {}, "Did you mean 'ResNet50'"),
        ("keras:ResNet50", {"backbone_form": "keras"}, "backbone_form must not be set"),
    ],
)
def test_refuses(name, options, message):
    with pytest.raises(InputError, match=message):
        create_backbone(name, **options)


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite1"])
def test_a_backbone_is_rebuilt_from_its_configuration(name):
    backbone = _built(name, width_multiplier=0.25, last="stride8")
    again = type(backbone).from_config(backbone.get_config())
    again.build((None, None, None, 3))
    again.set_weights(backbone.get_weights())
    expected = backbone(_images(40, 33))["stride8"]
    np.testing.assert_array_equal(again(_images(40, 33))["stride8"], expected)


def test_resnet_v2_maps():
    backbone = _built("resnet50_v2")
    maps = backbone(_images(50, 65))
    shapes = {level: tuple(feature_map.shape) for level, feature_map in maps.items()}
    assert shapes == {
        "stride4": (1, 13, 17, 256),
        "stride8": (1, 7, 9, 512),
        "stride16": (1, 4, 5, 1024),
    }
    assert tuple(backbone(_images(32, 32), last="stride8")) == ("stride4", "stride8")


def test_a_keras_network_is_a_backbone():
    model = create_model("delg_keras:MobileNetV2", seed=1, embedding_dim=8, local_dim=4)
    images = np.full((1, 70, 97, 3), 255, np.float32)
    assert model.preprocess(images).numpy().max() == 1.0
    result = model(images)
    assert result["global"].shape == (1, 8)
    cells = [model.local_grid(size).num_cells for size in (70, 97)]
    assert result["features"].shape == (1, *cells, 4)
    assert set(model(images, outputs=("local",))) == {"features", "scores"}
    assert model.backbone.levels == ("stride2", "stride4", "stride8", "stride16", "stride32")
    assert len(variables_by_path(model)) == len(model.weights)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("MobileNetV2", {"channel_order": "RGB", "mean": [127.5] * 3, "std": [127.5] * 3}),
        ("DenseNet121", IMAGENET_RGB),
        ("EfficientNetB0", {"channel_order": "RGB", "mean": [0.0] * 3, "std": [1.0] * 3}),
        (
            "ResNet50",
            {"channel_order": "BGR", "mean": [103.939, 116.779, 123.68], "std": [1.0] * 3},
        ),
    ],
)
def test_published_preprocessing(name, wanted):
    got = keras_networks.published_preprocessing(name)
    assert got["channel_order"] == wanted["channel_order"]
    np.testing.assert_allclose(got["mean"], wanted["mean"], atol=1e-3)
    np.testing.assert_allclose(got["std"], wanted["std"], atol=1e-3)


def test_networks_are_listed():
    assert {"ResNet50", "EfficientNetB0", "MobileNetV2"} < set(keras_networks.list_networks())


def test_static_and_dynamic_sizes_agree():
    backbone = _built("resnet50", width_multiplier=0.125)
    dynamic = tf.function(
        lambda x: backbone(x)["stride32"], input_signature=[tf.TensorSpec([None, None, None, 3])]
    )
    expected = backbone(_images(61, 83))["stride32"]
    np.testing.assert_allclose(dynamic(_images(61, 83)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", ["0.3535", "0.5", "0.7071"])
def test_odd_sizes_equal_the_reference(golden_dir, scale, odd_network):
    """The authors' sizes at small scales are odd; their descriptors hold the padding to account."""
    cv2 = pytest.importorskip("cv2")
    with np.load(golden_dir / "dolg/multiscale_preprocess.npz") as golden:
        _, height, width = golden[f"dolg_preprocess_{scale}/shape"]
        wanted = golden[f"dolg_r50_noma_calm/scale{scale}"][0]
    bgr = multiscale_image()
    resized = cv2.resize(bgr.astype(np.float32), (int(width), int(height)))
    got = odd_network(resized[np.newaxis, ..., ::-1])["global"][0]
    unit = wanted / np.linalg.norm(wanted)
    assert np.linalg.norm(got - unit) < 1e-4


@pytest.fixture(scope="module")
def odd_network(golden_dir):
    names = golden_dir / "models/dolg_r50_no_multi_atrous_state_dict.json"
    return conversion.convert_arrays("dolg_pytorch", regenerate(names))
