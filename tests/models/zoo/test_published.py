"""Published checkpoints: the table, fetching from a real server, and ImageNet weights of Keras."""

from __future__ import annotations

import contextlib
import functools
import http.server
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.checks import InputError
from delf_tf.models.create import create_model
from delf_tf.models.registry import list_models
from delf_tf.models.variables import variables_by_path
from delf_tf.models.zoo import published, sources
from delf_tf.models.zoo.download import DownloadError
from tests.golden_weights import regenerate


@pytest.mark.parametrize("name", published.PUBLISHED)
def test_records_are_complete(name):
    record = published.PUBLISHED[name]
    assert record.url.startswith(("http://", "https://"))
    assert record.licence
    assert record.trained_on
    assert record.source == "saved_model" or record.source in sources.SOURCES
    assert record.source == "saved_model" or record.model in list_models()
    assert all(0 < scale <= 2 for scale in record.scales)
    assert all(0 < value < 100 for value in record.published_map.values())
    assert len(record.sha256) in (0, 64)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Keeps the test's output clean."""


@contextlib.contextmanager
def _serving(folder):
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=functools.partial(httpd.serve_forever, 0.01))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_a_checkpoint_is_fetched_once_and_converted(repository, tmp_path, monkeypatch):
    golden = repository / "tests/golden/models/fire_r50_state_dict.json"
    served, cache = tmp_path / "served", tmp_path / "cache"
    served.mkdir()
    np.savez(served / "fire.npz", **regenerate(golden))
    monkeypatch.setenv("DELF_TF_CACHE", str(cache))
    with _serving(served) as url:
        record = published.PUBLISHED["superfeatures_resnet50_sfm120k"]._replace(
            url=f"{url}/fire.npz"
        )
        monkeypatch.setitem(published.PUBLISHED, "mine", record)
        model = create_model("superfeatures_resnet50", weights="mine")
    assert model.options["kwargs"]["num_superfeatures"] == 256
    assert published.fetch("mine") == cache / "mine.npz"  # The server is gone.
    (cache / "mine.npz").unlink()
    (cache / "fire.npz").unlink()
    with pytest.raises(DownloadError, match="Without a network"):
        create_model("superfeatures_resnet50", weights="mine")


def test_what_cannot_be_fetched_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("DELF_TF_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"by hand from https://pan\.baidu.*--source=dolg_pytorch"):
        published.fetch("dolg_resnet50_gldv2clean")
    with pytest.raises(InputError, match="run as it is"):
        published.fetch("delg_resnet50_gld")
    with pytest.raises(InputError, match="Did you mean 'delg_resnet50_gld'"):
        create_model("delg_resnet50", weights="delg_resnet50_gdl")


def _filled(network):
    random = np.random.RandomState(0)
    network.set_weights([random.uniform(0.5, 1, w.shape) for w in network.get_weights()])
    return network


@pytest.mark.parametrize("name", ["delg_resnet50", "superfeatures_resnet50"])
def test_every_backbone_variable_is_loaded(name):
    model = create_model(name, seed=0, backbone_form="keras_applications")
    before = {path: np.asarray(v) for path, v in variables_by_path(model).items()}
    published.transfer(model, _filled(tf.keras.applications.ResNet50(False, weights=None)))
    for path, variable in variables_by_path(model).items():
        same = np.array_equal(np.asarray(variable), before[path])
        assert same != path.startswith("backbone."), path


def test_keras_networks_take_their_weights_whole():
    model = create_model("gem_keras:MobileNetV2", seed=0)
    network = _filled(tf.keras.applications.MobileNetV2(include_top=False, weights=None))
    published.transfer(model, network)
    for got, want in zip(model.backbone.network.get_weights(), network.get_weights()):
        np.testing.assert_array_equal(got, want)


def test_weights_of_another_network_are_refused():
    model = create_model("gem_resnet50", seed=0, backbone_form="keras_applications")
    with pytest.raises(InputError, match="missing: backbone"):
        published.transfer(model, tf.keras.applications.MobileNetV2(weights=None))


def test_imagenet_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    module = sys.modules[tf.keras.applications.ResNet50.__module__]
    monkeypatch.setattr(module, "BASE_WEIGHTS_PATH", "http://127.0.0.1:9/")
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:9/resnet50"):
        create_model("delg_resnet50", weights="imagenet")


def test_imagenet_for_other_backbones_is_refused():
    for name, kwargs in (
        ("gem_mobilenet_v2", {}),
        ("gem_resnet50", {"backbone_form": "torchvision"}),
        ("gem_resnet50", {"width_multiplier": 0.5}),
    ):
        with pytest.raises(InputError, match='weights="imagenet" needs a backbone'):
            create_model(name, weights="imagenet", **kwargs)
