"""Networks of OpenVINO by the command line: extract, export, and stores that may not be mixed."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf import config
from delf_tf.features import agreement
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines.runtime import Runtime
from delf_tf.tools import main
from tests.tools import painted

pytest.importorskip("openvino", reason="the extra openvino is not installed")
pytest.importorskip("nncf", reason="the extra openvino is not installed")

CONFIG = """
model { name: "gem_mobilenet_v2" width_multiplier: 0.25 seed: 1 }
extraction { image_scales: [0.7071, 1] use_local_features: true max_num_features: 9 }
rerank { num_candidates: 3 }
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DELF_TF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures, a config, its network in 8 bits, and stores in float32 and in 8 bits."""
    root = tmp_path_factory.mktemp("photos")
    (root / "images").mkdir()
    painted.write_places(root / "images", root / "labels.csv")
    (root / "c.textproto").write_text(CONFIG)
    assert _run(root, "export", "network") == 0
    assert _run(root, "extract", "full") == 0
    assert _run(root, "extract", "low", *_int8(root)) == 0
    return root


def _run(root, tool, output, *more):
    flags = [f"--config={root / 'c.textproto'}", f"--images_dir={root / 'images'}"]
    return main.main(["delf_tf", tool, *flags, f"--output_dir={root / output}", *more])


def _int8(root):
    return "--backend=openvino", "--precision=int8", f"--quantized_network={root / 'network'}"


def test_backends_give_like_features(root):
    assert _run(root, "extract", "float32", "--backend=openvino") == 0
    full, same, low = (FeatureStore(root / name) for name in ("full", "float32", "low"))
    assert len({store.fingerprint for store in (full, same, low)}) == 3
    assert agreement.measure_cosines(full, same).min() > 0.9999
    assert agreement.measure_cosines(full, low).min() > 0.98
    np.testing.assert_allclose(
        same.read_local("0_0.jpg").scores, full.read_local("0_0.jpg").scores, rtol=1e-3
    )


def test_batches_are_of_equal_images(root):
    options = ["--backend=openvino", "--batch_size=3"]
    assert _run(root, "extract", "batched", *options) == 0
    batched, low = FeatureStore(root / "batched"), FeatureStore(root / "full")
    assert agreement.measure_cosines(batched, low).min() > 0.9999


def test_what_it_was_calibrated_on_is_told(root, capsys):
    assert _run(root, "export", "again", "--max_num_images=3") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{root / 'again'}: 3 images; cosine to float32: global median ")
    assert _run(root, "export", "again") == 1
    assert "--overwrite" in capsys.readouterr().err


def test_another_models_network_is_refused(root, capsys):
    assert _run(root, "extract", "other", *_int8(root), "--set=model.seed=2") == 1
    assert "model and weights of this experiment" in capsys.readouterr().err
    assert _run(root, "extract", "other", "--precision=int8") == 1
    assert "backend openvino" in capsys.readouterr().err
    assert _run(root, "extract", "other", "--backend=openvino", "--precision=int8") == 1
    assert "delf_tf export --images_dir" in capsys.readouterr().err


def test_random_weights_without_a_seed_are_not_kept():
    message = config.load_experiment("compact")
    message.extraction.backend = "openvino"
    kept = Runtime(message)._cache_dir
    message.model.ClearField("weights")
    assert Runtime(message)._cache_dir != kept
    message.model.seed = 3
    assert Runtime(message)._cache_dir == kept


def _search(root, *more):
    stores = [f"--database_store={root / 'full'}", f"--query_store={root / 'low'}"]
    return main.main(["delf_tf", "search", f"--output={root / 'r.npz'}", *stores, *more])


def test_stores_of_other_precisions_are_mixed_when_measured(root, capsys):
    assert _search(root) == 1
    assert "same model and settings" in capsys.readouterr().err
    assert _search(root, f"--allow_mixed={root / 'low'}") == 0
    assert "median cosine" in capsys.readouterr().err
    assert _search(root, f"--allow_mixed={root / 'full'}") == 1
    index = root / "index.npz"
    built = ["delf_tf", "build_index", f"--database_store={root / 'full'}", f"--output={index}"]
    assert main.main(built) == 0
    assert _search(root, f"--index={index}") == 1
    assert _search(root, f"--index={index}", f"--allow_mixed={root / 'low'}") == 0


def test_unlike_features_are_never_mixed(root, capsys):
    assert _run(root, "extract", "unlike", "--set=model.seed=7") == 0
    stores = [f"--database_store={root / 'full'}", f"--query_store={root / 'unlike'}"]
    tool = ["delf_tf", "search", f"--output={root / 'r.npz'}", *stores]
    assert main.main([*tool, f"--allow_mixed={root / 'unlike'}"]) == 1
    assert "must agree" in capsys.readouterr().err


def test_served_features_may_be_of_another_precision(root):
    from delf_tf.checks import InputError
    from delf_tf.pipelines.photos.photos import Photos

    message = config.load_experiment(str(root / "c.textproto"))
    message.extraction.backend = "openvino"
    store = FeatureStore(root / "full")
    with pytest.raises(InputError, match="made as those of the queries"):
        Photos(Runtime(message), store, root / "images")
    opened = Photos(Runtime(message), store, root / "images", allow_mixed=True)
    found = opened.search(root / "images" / "0_0.jpg", max_results=2)
    assert found[0].id == "0_1.jpg"


def test_what_openvino_runs_is_not_exported(root, capsys):
    tool = ["delf_tf", "export", f"--config={root / 'c.textproto'}"]
    backend = "--set=extraction.backend=openvino"
    assert main.main([*tool, f"--output_dir={root / 'saved'}", backend]) == 1
    assert "extraction.backend=tensorflow" in capsys.readouterr().err
