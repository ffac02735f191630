from __future__ import annotations

import numpy as np
import pytest

from delf_tf.features.store import FeatureStore, ImageFeatures
from delf_tf.models import create
from delf_tf.models.zoo import checkpoint
from delf_tf.retrieval.vectors.whitening import fit_pca, load_whitening
from delf_tf.tools import main
from delf_tf.types import LocalFeatures
from tests.tools import stores


def _fit(*arguments):
    return main.main(["delf_tf", "fit_whitening", *map(str, arguments)])


@pytest.fixture
def store(tmp_path):
    return stores.make_store(tmp_path / "store", stores.places(6, 2), with_local=False)


def test_a_whitening_for_an_index(store, tmp_path):
    output = tmp_path / "w.npz"
    assert _fit(f"--store={store}", "--dim=5", "--power=0.25", f"--output={output}") == 0
    vectors = FeatureStore(store).global_descriptors().vectors
    expected = fit_pca(vectors, 5, power=0.25)
    np.testing.assert_array_equal(load_whitening(output).projection, expected.projection)


def test_weights_with_the_whitening_inside(store, tmp_path, capsys):
    model = create.create_model(
        "compact_resnet20", seed=0, width_multiplier=0.125, feature_dim=16, fusion_dim=8
    )
    checkpoint.save_weights(model, tmp_path / "plain.npz", {"steps": 7})
    files = [f"--store={store}", f"--weights={tmp_path / 'plain.npz'}"]
    output = tmp_path / "whitened.npz"
    assert _fit(*files, "--dim=5", f"--output={output}") == 0
    made = create.create_model("compact_resnet20", output)
    assert made.global_dim == 5
    assert checkpoint.read_options(output)["provenance"] == {"steps": 7}
    assert _fit(*files, "--dim=5", f"--output={output}") == 1
    assert "--overwrite" in capsys.readouterr().err
    again = [files[0], f"--weights={output}", f"--output={tmp_path / 'x.npz'}"]
    assert _fit(*again) == 1
    assert "without a whitening" in capsys.readouterr().err


def test_a_whitening_of_the_regions_of_rmac(tmp_path):
    model = create.create_model("gem_mobilenet_v2", seed=0, width_multiplier=0.125)
    weights = checkpoint.save_weights(model, tmp_path / "plain.npz")
    random = np.random.default_rng(0)
    regions = [stores.unit(random, 8, model.global_dim) for _ in range(5)]
    images = {
        f"{row}.jpg": ImageFeatures(one[0], LocalFeatures(np.zeros((8, 2)), one, *np.ones((2, 8))))
        for row, one in enumerate(regions)
    }
    dims = {"global_dim": model.global_dim, "local_dim": model.global_dim}
    store = stores.make_store(tmp_path / "store", images, **dims)
    output = tmp_path / "whitened.npz"
    arguments = [f"--store={store}", f"--weights={weights}", f"--output={output}", "--dim=4"]
    assert _fit(*arguments, "--local") == 0
    made = create.create_model("gem_mobilenet_v2", output, global_pooling="rmac")
    fitted = fit_pca(np.concatenate(regions), 4)
    np.testing.assert_allclose(made.whitening.kernel, fitted.projection.T, atol=1e-3)
    np.testing.assert_allclose(made.whitening.bias, -fitted.projection @ fitted.mean, atol=1e-3)


def test_each_part_of_a_descriptor_is_whitened_alone(tmp_path):
    name = "compact_efficientnet_lite0"
    weights = checkpoint.save_weights(create.create_model(name, seed=0), tmp_path / "plain.npz")
    random = np.random.default_rng(0)
    vectors = stores.unit(random, 9, 1280 + 672)
    images = {f"{row}.jpg": ImageFeatures(one, None) for row, one in enumerate(vectors)}
    store = stores.make_store(
        tmp_path / "wide", images, with_local=False, global_dim=vectors.shape[1]
    )
    output = tmp_path / "whitened.npz"
    assert _fit(f"--store={store}", f"--weights={weights}", "--dim=4", f"--output={output}") == 0
    made = create.create_model(name, output)
    assert made.global_dim == 8
    fitted = fit_pca(vectors[:, 1280:], 4)
    np.testing.assert_allclose(made.fine_whitening.kernel, fitted.projection.T, atol=1e-4)
