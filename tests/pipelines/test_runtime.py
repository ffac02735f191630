from __future__ import annotations

import numpy as np
import pytest

from delf_tf import config
from delf_tf.checks import InputError, UsageError
from delf_tf.models.zoo import checkpoint
from delf_tf.pipelines import runtime
from delf_tf.protos import experiment_pb2


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
