from __future__ import annotations

import pickle

import numpy as np
import pytest

from delf_tf import config, matching
from delf_tf.checks import InputError, UsageError
from delf_tf.extraction import folding
from delf_tf.models.zoo import checkpoint
from delf_tf.pipelines import runtime
from delf_tf.protos import experiment_pb2
from delf_tf.tools import main
from tests.tools import painted


def _message(**model):
    return experiment_pb2.Experiment(model=experiment_pb2.ModelConfig(**model))


def test_weights_of_another_program_are_converted(shared):
    path = shared / "weights" / "mobilenet_v2_imagenet.npz"
    model = runtime.create_model(_message(name="gem_mobilenet_v2", weights=str(path)))
    outputs = model(np.full([1, 64, 64, 3], 100, np.float32), outputs=("global",))
    assert outputs["global"].shape == (1, 1280)
    with pytest.raises(InputError, match="gem_mobilenet_v2"):
        runtime.create_model(_message(name="gem_resnet50", weights=str(path)))


def test_weights_of_no_known_program_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", some=np.zeros(3), thing=np.zeros(3))
    with pytest.raises(InputError, match="written by delf_tf"):
        runtime.create_model(_message(name="gem_mobilenet_v2", weights=str(tmp_path / "x.npz")))


def test_a_config_without_a_model():
    with pytest.raises(UsageError, match="must name a model"):
        runtime.create_model(_message(seed=1))


def test_the_fingerprint_follows_what_shapes_features(tmp_path):
    message = config.load_experiment("mobilenet_v2_imagenet")
    before = runtime.Runtime(message).fingerprint()
    message.rerank.num_candidates = 7
    assert runtime.Runtime(message).fingerprint() == before
    message.extraction.max_num_features = 7
    changed = runtime.Runtime(message).fingerprint()
    assert changed != before
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(b"same weights")
    message.model.weights = str(tmp_path / "one")
    with_weights = runtime.Runtime(message).fingerprint()
    assert with_weights != changed
    message.model.weights = str(tmp_path / "two")
    assert runtime.Runtime(message).fingerprint() == with_weights
    (tmp_path / "two").write_bytes(b"other weights")
    assert runtime.Runtime(message).fingerprint() != with_weights


def test_is_weights_file(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(1))
    (tmp_path / "y.npz").write_bytes(b"no zip")
    assert not checkpoint.is_weights_file(tmp_path / "x.npz")
    assert not checkpoint.is_weights_file(tmp_path / "y.npz")
    model = runtime.create_model(_message(name="gem_mobilenet_v2", width_multiplier=0.35))
    assert checkpoint.is_weights_file(checkpoint.save_weights(model, tmp_path / "z.npz"))


def test_a_run_builds_its_network_once(tmp_path, monkeypatch):
    """With queries of their own, a PCA to fit, two stages, and a report that shows maps."""
    built = []
    build, fold = runtime.create_model, folding.inference_copy
    monkeypatch.setattr(runtime, "create_model", lambda *a: built.append("model") or build(*a))
    monkeypatch.setattr(folding, "inference_copy", lambda *a: built.append("copy") or fold(*a))
    verified = []
    verify = matching.verify
    monkeypatch.setattr(matching, "verify", lambda *a, **k: verified.append(a) or verify(*a, **k))
    for name in ("database", "queries"):
        (tmp_path / name).mkdir()
        painted.write_places(tmp_path / name, tmp_path / "labels.csv")
    (tmp_path / "c.textproto").write_text(
        'model { name: "gem_mobilenet_v2" width_multiplier: 0.35 seed: 1 }\n'
        "extraction { max_image_size: 96 use_local_features: true max_num_features: 20\n"
        "  local_pca { dim: 8 } }\n"
        "rerank { num_candidates: 3 }\n"
    )
    argv = ["retrieve", f"--config={tmp_path / 'c.textproto'}", f"--output_dir={tmp_path / 'out'}"]
    argv += [f"--database_dir={tmp_path / 'database'}", f"--query_dir={tmp_path / 'queries'}"]
    argv += [f"--labels={tmp_path / 'labels.csv'}"]
    assert main.main(["delf_tf", *argv]) == 0
    report = (tmp_path / "out" / "report.html").read_text()
    assert "inliers of" in report
    assert "What the network sees" in report
    assert built == ["model", "copy"]
    # The report shows the verifications that the second stage made.
    assert not verified


def test_weights_of_ours_make_the_network_at_once(tmp_path, monkeypatch):
    model = runtime.create_model(_message(name="gem_mobilenet_v2", width_multiplier=0.35))
    weights = str(checkpoint.save_weights(model, tmp_path / "w.npz"))
    build, built = runtime.create_model, []
    monkeypatch.setattr(runtime, "create_model", lambda *a: built.append(1) or build(*a))
    network = runtime.Runtime(_message(name="gem_mobilenet_v2", weights=weights)).network
    assert network.options == model.options and not built
    deepest = _message(name="compact_efficientnet_lite2", weights="compact", descriptor="deepest")
    assert runtime.Runtime(deepest).network.global_dim == 512 and not built
    # Its errors are those of create_model.
    with pytest.raises(InputError, match="weights must be of a delg_mobilenet_v2"):
        runtime.Runtime(_message(name="delg_mobilenet_v2", weights=weights)).extractor()
    arrays = dict(checkpoint.read_weights(weights)[1])
    arrays["backbone.stem.norm.beta"] = np.zeros(3)
    checkpoint.write_arrays(weights, arrays, model.options)
    with pytest.raises(InputError, match=r"misshaped: backbone.stem.norm.beta .*\[3\], must be"):
        runtime.Runtime(_message(name="gem_mobilenet_v2", weights=weights)).extractor()


def test_variants_share_the_network_and_are_made_once():
    opened = runtime.Runtime(_message(name="gem_mobilenet_v2", width_multiplier=0.35, seed=1))
    both = opened.extractor(use_local=True)
    alone = opened.extractor()
    assert both is opened.extractor(use_global=True, use_local=True)
    assert both is not alone
    assert both.model is alone.model is opened.network
    assert (alone.local_dim, both.local_dim is None) == (None, False)


def test_a_pickled_experiment_is_built_again():
    opened = runtime.Runtime(
        _message(name="gem_mobilenet_v2", width_multiplier=0.35, seed=1), local_pca="x.npz"
    )
    assert opened.network is not None
    again = pickle.loads(pickle.dumps(opened))
    assert again.message == opened.message
    assert again.local_pca == "x.npz"
    assert again.network is not opened.network
