"""Networks run by OpenVINO give what TensorFlow gives, for every system."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.extraction.array_extractor import ArrayExtractor
from delf_tf.extraction.backends import network_folder
from delf_tf.extraction.engine import ImageLoader
from delf_tf.extraction.extractor import Extractor
from delf_tf.extraction.settings import Projection
from delf_tf.models.create import create_model
from delf_tf.types import ImageRef

pytest.importorskip("openvino", reason="the extra openvino is not installed")

from delf_tf.extraction.backends.openvino import OpenVinoNetwork

SMALL = {"width_multiplier": 0.125, "attention_dim": 8}
LOCAL = {"use_local_features": True, "max_num_features": 2000}
SYSTEMS = {
    "delg_resnet14": ({**SMALL, "embedding_dim": 16, "local_dim": 12}, LOCAL),
    "delf_mobilenet_v2": (SMALL, LOCAL),
    "gem_mobilenet_v2": ({"width_multiplier": 0.25}, LOCAL),
    "dolg_resnet14": ({"width_multiplier": 0.125, "fusion_dim": 8, "embedding_dim": 6}, {}),
    "superfeatures_resnet14": (
        {
            "width_multiplier": 0.125,
            "num_superfeatures": 8,
            "superfeature_dim": 16,
            "num_iterations": 2,
            "local_dim": 12,
        },
        {**LOCAL, "use_global_features": False},
    ),
    "compact_efficientnet_lite0": (
        {**SMALL, "embedding_dim": 16, "backbone_scale": 0.8},
        LOCAL,
    ),
    "compact_resnet20": ({**SMALL, "feature_dim": 24, "fusion_dim": 8, "local_dim": 6}, LOCAL),
}
# Between them all outputs, all kinds of convolutions and all heads.
INT8 = (
    "delg_resnet14",
    "dolg_resnet14",
    "superfeatures_resnet14",
    "compact_efficientnet_lite0",
)


@pytest.fixture(scope="module", params=SYSTEMS)
def system(request, tmp_path_factory):
    """A model, its exported folder, and settings of its features."""
    options, settings = SYSTEMS[request.param]
    model = create_model(request.param, seed=0, **options)
    folder = network_folder.export_network(
        model, tmp_path_factory.mktemp("network") / "it", fingerprint="abc"
    )
    return model, folder, settings


def _image(height=150, width=210, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def _by_place(features):
    """Local features in an order that no rounding of scores changes."""
    places = np.round(np.asarray(features["locations"]), 1)
    order = np.lexsort((places[:, 1], places[:, 0], np.asarray(features["scales"])))
    names = ("locations", "descriptors", "scores", "scales")
    return {name: np.asarray(features[name])[order] for name in names}


def _assert_same(features, expected, tolerance=1e-4):
    assert features.keys() == expected.keys()
    if "global_descriptor" in expected:
        np.testing.assert_allclose(
            features["global_descriptor"], expected["global_descriptor"], atol=tolerance
        )
    if "locations" in expected:
        found, wanted = _by_place(features), _by_place(expected)
        for name, values in wanted.items():
            np.testing.assert_allclose(
                found[name], values, rtol=tolerance, atol=10 * tolerance, err_msg=name
            )


@pytest.mark.parametrize("size", [(150, 210), (97, 64)])
def test_float32_is_what_tensorflow_gives(system, size):
    model, folder, settings = system
    settings = {**settings, "image_scales": (0.7071, 1.0, 1.4142), "global_scales_ind": (0, 1)}
    expected = Extractor(model, **settings)(_image(*size))
    found = ArrayExtractor(OpenVinoNetwork(folder), **settings)(_image(*size))
    _assert_same(found, {name: value.numpy() for name, value in expected.items()})


def test_batches_give_what_each_image_gives(system):
    _, folder, settings = system
    extractor = ArrayExtractor(OpenVinoNetwork(folder), **settings)
    images = [_image(70, 90), _image(64, 64, 1), _image(70, 90, 2), _image(70, 90, 3)]
    for image, features in zip(images, extractor.extract_batches(images, batch_size=2)):
        _assert_same(features, extractor(image))


def test_bfloat16_stays_near(system):
    _, folder, settings = system
    full, half = (
        ArrayExtractor(OpenVinoNetwork(folder, precision=precision), **settings)(_image())
        for precision in ("float32", "bfloat16")
    )
    if "global_descriptor" in full:
        assert full["global_descriptor"] @ half["global_descriptor"] > 0.999


def test_projections_thresholds_and_suppression_are_tensorflows():
    options, _ = SYSTEMS["delg_resnet14"]
    model = create_model("delg_resnet14", seed=0, **options)
    rng = np.random.default_rng(0)
    settings = {
        "use_local_features": True,
        "nms_iou": 0.6,
        "nms_box_px": 60.0,
        "border_cells": 1,
        "max_num_features": 20,
        "local_projection": Projection(rng.normal(size=12) / 9, rng.normal(size=(5, 12))),
        "global_projection": Projection(rng.normal(size=16) / 9, rng.normal(size=(3, 16))),
    }
    extractor = Extractor(model, **settings)
    scores = Extractor(model, use_local_features=True)(_image())["scores"].numpy()
    settings["score_threshold"] = float(np.median(scores))
    extractor = Extractor(model, **settings)
    found = ArrayExtractor(_Tensorflow(extractor), **settings)(_image())
    expected = {name: value.numpy() for name, value in extractor(_image()).items()}
    assert 3 < len(expected["scores"]) <= 20
    _assert_same(found, expected, tolerance=1e-5)


class _Tensorflow:
    """The same network, run by TensorFlow."""

    def __init__(self, extractor):
        from delf_tf.extraction.backends import conversion

        self.facts = conversion.network_facts(extractor.model)
        self._model = extractor.model

    def __call__(self, images, level_size, outputs):
        import tensorflow as tf

        levels = tf.image.resize(tf.cast(images, tf.float32), level_size)
        found = self._model(levels, training=False, outputs=outputs)
        return {name: value.numpy() for name, value in found.items()}


def test_a_folder_of_another_model_is_refused(system):
    _, folder, _ = system
    with pytest.raises(InputError, match="model and weights"):
        network_folder.read_folder(folder.path, fingerprint="another")


def test_damaged_folders_are_refused(tmp_path):
    model = create_model("dolg_resnet14", seed=0, **SYSTEMS["dolg_resnet14"][0])
    path = tmp_path / "network"
    folder = network_folder.export_network(model, path, fingerprint="abc")
    with pytest.raises(InputError, match="quantised"):
        OpenVinoNetwork(folder, precision="int8")
    weights = path / network_folder.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="must be those"):
        OpenVinoNetwork(folder)
    whole = dataclasses.replace(folder, content=network_folder.content_fingerprint(path))
    with pytest.raises(InputError, match="whole"):
        OpenVinoNetwork(whole)
    (path / network_folder.FACTS).write_text('{"format_version": 2}')
    with pytest.raises(InputError, match="as delf_tf wrote it"):
        network_folder.read_folder(path)
    with pytest.raises(InputError, match="must hold"):
        network_folder.read_folder(tmp_path)


def test_what_was_exported_runs_without_tensorflow(system, tmp_path):
    _, folder, settings = system
    script = f"""
import sys
import numpy as np
from delf_tf.extraction.array_extractor import ArrayExtractor
from delf_tf.extraction.backends import network_folder
from delf_tf.extraction.backends.openvino import OpenVinoNetwork
folder = network_folder.read_folder({str(folder.path)!r})
network = OpenVinoNetwork(folder, cache_dir={str(tmp_path / "cache")!r})
features = ArrayExtractor(network, **{settings!r})(np.zeros((64, 64, 3), np.uint8))
assert all(np.isfinite(values).all() for values in features.values())
assert "tensorflow" not in sys.modules
assert sys.modules["openvino_telemetry"] is None
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert any((tmp_path / "cache").iterdir())


@pytest.fixture
def photographs(tmp_path):
    """Three images as files, one of them damaged."""
    from PIL import Image

    refs = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        Image.fromarray(_image(96, 128, number)).save(path)
        refs.append(ImageRef(path.name, path))
    refs[1].path.write_bytes(b"damaged")
    return refs


@pytest.mark.parametrize("system", INT8, indirect=True)
def test_int8_is_calibrated_on_images_that_the_folder_names(system, photographs, tmp_path):
    pytest.importorskip("nncf", reason="the extra openvino is not installed")
    from delf_tf.extraction.backends import quantization

    _, folder, settings = system
    written = quantization.quantize(folder, photographs, ImageLoader(), tmp_path / "int8")
    assert list(written.calibration["images"]) == ["0.png", "2.png"]
    assert written.fingerprint == folder.fingerprint
    network = OpenVinoNetwork(network_folder.read_folder(tmp_path / "int8"), precision="int8")
    features = ArrayExtractor(network, **settings)(_image(96, 128))
    full = ArrayExtractor(OpenVinoNetwork(folder), **settings)(_image(96, 128))
    assert features.keys() == full.keys()
    if "global_descriptor" in full:
        assert full["global_descriptor"] @ features["global_descriptor"] > 0.98
    for output, cosine in written.calibration["cosine"].items():
        assert output in folder.facts.output_names_available
        assert 0.9 < cosine["median"] <= 1.0001
    with pytest.raises(InputError, match="quantised"):
        OpenVinoNetwork(written)


@pytest.mark.parametrize("system", INT8[:1], indirect=True)
def test_calibration_needs_a_readable_image(system, photographs, tmp_path):
    pytest.importorskip("nncf", reason="the extra openvino is not installed")
    from delf_tf.extraction.backends import quantization

    with pytest.raises(InputError, match="readable"):
        quantization.quantize(system[1], photographs[1:2], ImageLoader(), tmp_path / "int8")
    assert not (tmp_path / "int8").exists()
