"""XFeat: PyTorch's outputs from its weights, true locations, and the way to matched pairs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from delf_tf import matching
from delf_tf.checks import InputError
from delf_tf.export import loading, savedmodel
from delf_tf.extraction import engine, folding
from delf_tf.extraction.extractor import Extractor
from delf_tf.extraction.inspection import network_maps
from delf_tf.features import store
from delf_tf.models.create import create_model
from delf_tf.models.variables import variables_by_path
from delf_tf.models.zoo import checkpoint, conversion, foreign_files, sources
from delf_tf.tools import main
from delf_tf.types import ImageRef
from tests.golden_weights import regenerate, relative_error

GOLDEN = Path(__file__).parents[2] / "golden/models"


@pytest.fixture(scope="module")
def arrays():
    return regenerate(GOLDEN / "xfeat_state_dict.json")


@pytest.fixture(scope="module")
def model(arrays):
    return conversion.convert_arrays("xfeat", arrays)


def _images(height=96, width=160):
    return np.random.RandomState(0).uniform(0, 255, (1, height, width, 3)).astype(np.float32)


def _wanted(logits, reliability):
    """Locations (y, x) and scores by hand, cell by cell."""
    height, width = reliability.shape
    locations, scores = np.zeros((height, width, 2)), np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            chances = np.exp(logits[i, j]) / np.exp(logits[i, j]).sum()
            place = int(np.argmax(chances[:64]))
            locations[i, j] = 8 * i + place // 8, 8 * j + place % 8
            scores[i, j] = chances[place] * reliability[i, j]
    return locations, scores


def test_outputs_are_those_of_pytorch(model):
    """The golden was computed in float64, and is the authors' own network's to 1e-13."""
    with np.load(GOLDEN / "xfeat.npz") as golden:
        features, logits = golden["features"], golden["keypoint_logits"].astype(np.float64)
        reliability = golden["reliability"][..., 0]
    locations, scores = _wanted(logits, reliability)
    for network in (model, folding.inference_copy(model)):
        got = network(_images())
        assert relative_error(got["features"][0], features) < 1e-5
        assert relative_error(got["scores"][0], scores) < 1e-5
        np.testing.assert_allclose(got["locations"][0], locations, atol=1e-4)
        raw = network.training_outputs(_images(), training=False)
        assert relative_error(raw["keypoint_logits"][0], logits) < 1e-5
        assert relative_error(raw["reliability"][0], reliability) < 1e-5


@pytest.mark.skipif(
    "DELF_TF_XFEAT" not in os.environ,
    reason="DELF_TF_XFEAT must name a folder of xfeat.npz, the published arrays, and "
    "xfeat_real.npz, what the authors' network made of an image",
)
def test_the_published_weights_give_the_authors_outputs():
    folder = Path(os.environ["DELF_TF_XFEAT"])
    model = conversion.convert_arrays("xfeat", foreign_files.read_arrays(folder / "xfeat.npz"))
    with np.load(folder / "xfeat_real.npz") as golden:
        got = model.training_outputs(golden["image"], training=False)
        for ours, theirs in (("features", "features"), ("keypoint_logits", "keypoints")):
            assert relative_error(got[ours], golden[f"{theirs}/authors64"]) < 1e-5
        reliability = golden["reliability/authors64"][..., 0]
        assert relative_error(got["reliability"], reliability) < 1e-5


def test_size_and_settings(model):
    """The published network without its fine matcher: its arrays less a counter each."""
    norms = sum(path.endswith("moving_mean") for path in variables_by_path(model))
    affine = sum(
        variable.shape[0]
        for path, variable in variables_by_path(model).items()
        if path.endswith(("gamma", "beta"))
    )
    assert model.count_params() - affine + norms == 660_677
    assert (model.local_dim, model.global_dim, model.local_stride) == (64, None, 8)
    assert model.options == {
        "name": "xfeat",
        "kwargs": {},
        "preprocessing": {"channel_order": "RGB", "mean": [0.0] * 3, "std": [255.0] * 3},
    }


def test_conversion_refuses_what_is_missing_and_recognises_the_rest(arrays):
    assert sources.recognize(arrays) == "xfeat"
    fewer = {name: a for name, a in arrays.items() if name != "block4.1.layer.1.running_var"}
    with pytest.raises(InputError, match=r"1 missing: backbone\.block4_1\.norm\.moving_variance"):
        conversion.convert_arrays("xfeat", fewer)
    more = {**arrays, "fine_matcher.0.weight": np.zeros((2, 2))}
    assert conversion.convert_arrays("xfeat", more).options["name"] == "xfeat"


@pytest.mark.parametrize(
    ("size", "cells"), [((1, 1), (4, 4)), ((31, 64), (4, 8)), ((100, 163), (12, 20))]
)
def test_any_size_keeps_locations_inside(model, size, cells):
    result = model(_images(*size))
    assert result["features"].shape == (1, *cells, 64)
    assert result["scores"].shape == (1, *cells)
    locations = result["locations"].numpy()
    assert locations.shape == (1, *cells, 2)
    assert (locations > -0.5).all() and (locations < np.array(size) - 0.5).all()
    assert np.all((result["scores"] >= 0) & (result["scores"] <= 1))


def test_a_resized_image_has_its_keypoints_where_they_were(model):
    """100 x 163 is resized to 96 x 160: the same cells, in pixels of the given image."""
    image = _images(100, 163)
    small = tf.image.resize(image, (96, 160), method="bilinear")
    given, resized = model(image)["locations"].numpy(), model(small)["locations"].numpy()
    factor = np.array([100 / 96, 163 / 160])
    np.testing.assert_allclose(given, (resized + 0.5) * factor - 0.5, atol=1e-3)


def test_the_extractor_keeps_the_best_in_pixels_of_the_image(model):
    image = _images(192, 256)[0].astype(np.uint8)
    extractor = Extractor(
        model, use_global_features=False, use_local_features=True, max_num_features=50
    )
    got = {name: value.numpy() for name, value in extractor(image).items()}
    raw = {name: value.numpy()[0] for name, value in model(image[np.newaxis]).items()}
    order = np.argsort(-raw["scores"].ravel(), kind="stable")[:50]
    np.testing.assert_allclose(got["scores"], raw["scores"].ravel()[order], rtol=1e-4)
    np.testing.assert_allclose(got["locations"], raw["locations"].reshape(-1, 2)[order], atol=1e-3)
    features = raw["features"].reshape(-1, 64)[order]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(got["descriptors"], features, atol=1e-4)


def test_border_cells_and_scales(model):
    image = _images(128, 160)[0].astype(np.uint8)
    extractor = Extractor(
        model,
        image_scales=(1.0, 0.5),
        use_global_features=False,
        use_local_features=True,
        border_cells=1,
        max_num_features=10_000,
    )
    got = extractor(image)
    counts = [int(np.sum(got["scales"] == scale)) for scale in (1.0, 2.0)]
    # 128 x 160 has 16 x 20 cells; half of it is 64 x 80, made 64 x 64: 8 x 8 cells.
    assert counts == [14 * 18, 6 * 6]
    fine = got["locations"].numpy()[got["scales"].numpy() == 1.0]
    assert fine.min() > 7.5 and fine[:, 0].max() < 119.5 and fine[:, 1].max() < 151.5


def test_bfloat16_keeps_keypoints(model):
    """The head that places keypoints stays in float32; reliability and descriptors move little."""
    plain, half = model(_images()), folding.inference_copy(model, "bfloat16")(_images())
    np.testing.assert_allclose(half["locations"], plain["locations"], atol=1e-4)
    np.testing.assert_allclose(half["scores"], plain["scores"], atol=0.02)
    cosine = tf.reduce_sum(
        tf.math.l2_normalize(half["features"], -1) * tf.math.l2_normalize(plain["features"], -1), -1
    )
    assert np.min(cosine) > 0.99


def test_training_reaches_every_weight(arrays):
    network = conversion.convert_arrays("xfeat", arrays)
    with tf.GradientTape() as tape:
        outputs = network.training_outputs(_images(64, 64))
        loss = tf.add_n([tf.reduce_sum(tf.square(value)) for value in outputs.values()])
    gradients = tape.gradient(loss, network.trainable_variables)
    assert all(g is not None and np.isfinite(g).all() for g in gradients)


def test_reliability_is_what_the_demo_shows(model):
    image = _images(96, 160)[0].astype(np.uint8)
    (shown,) = network_maps(model, image)
    assert shown.values.shape == (12, 20)
    assert (shown.offset, shown.stride) == ((3.5, 3.5), 8.0)


def test_rebuilt_from_its_configuration(model):
    again = type(model).from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(_images())["features"], model(_images())["features"])
    assert create_model("xfeat", seed=0).options == model.options


def test_a_moved_scene_is_found_through_store_and_verification(model, tmp_path):
    """Two crops of one scene, 32 rows and 64 columns apart, through a store of features."""
    scene = np.random.RandomState(5).randint(0, 256, (256, 320, 3), np.uint8)
    for name, crop in (("a", scene[:224, :256]), ("b", scene[32:, 64:])):
        Image.fromarray(crop).save(tmp_path / f"{name}.png")
    extractor = Extractor(model, use_global_features=False, use_local_features=True)
    refs = [ImageRef(name, tmp_path / f"{name}.png") for name in ("a", "b")]
    engine.extract_to_store(
        refs, extractor, tmp_path / "store", loader=engine.ImageLoader(), fingerprint="x"
    )
    features = store.FeatureStore(tmp_path / "store")
    pair = [features.read_local(ref.id) for ref in refs]
    found = matching.verify(*pair, "similarity", inlier_threshold_px=2)
    assert found.num_inliers > 100
    np.testing.assert_allclose(found.transform @ [100, 100, 1], [36, 68, 1], atol=1)


def test_exported_it_gives_the_same(model, tmp_path):
    extractor = Extractor(
        model,
        image_scales=(0.5, 1.0),
        use_global_features=False,
        use_local_features=True,
        max_num_features=40,
    )
    path = savedmodel.export_extractor(extractor, tmp_path / "m")
    image = _images(100, 170)[0].astype(np.uint8)
    got, want = loading.load_saved_extractor(path)(image), extractor(image)
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-3, err_msg=name)


def test_the_match_tool_takes_its_config(model, tmp_path, capsys):
    weights = checkpoint.save_weights(model, tmp_path / "xfeat.npz", {})
    scene = np.random.RandomState(5).randint(0, 256, (256, 320, 3), np.uint8)
    paths = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    for path, crop in zip(paths, (scene[:224, :256], scene[32:, 64:])):
        Image.fromarray(crop).save(path)
    output = tmp_path / "matches.png"
    options = ["--config=xfeat", f"--weights={weights}", f"--output={output}"]
    assert main.main(["delf_tf", "match", *paths, *options]) == 0
    assert int(capsys.readouterr().out.split()[0]) > 100
    assert output.is_file()
