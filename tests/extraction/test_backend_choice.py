from __future__ import annotations

import pytest

from delf_tf.checks import InputError
from delf_tf.extraction.backends import choice, network_folder
from delf_tf.models.create import create_model

TINY = {"width_multiplier": 0.125, "fusion_dim": 8, "embedding_dim": 6}


@pytest.mark.parametrize(
    ("installed", "accelerator", "expected"),
    [(True, False, "openvino"), (True, True, "tensorflow"), (False, False, "tensorflow")],
)
def test_auto_is_openvino_on_machines_without_accelerator(
    monkeypatch, installed, accelerator, expected
):
    monkeypatch.setattr(choice.openvino_runtime, "is_installed", lambda: installed)
    monkeypatch.setattr(choice, "_has_accelerator", lambda: accelerator)
    assert choice.resolve_backend("auto") == expected
    assert choice.resolve_backend("tensorflow") == "tensorflow"
    with pytest.raises(InputError, match="'openvino'"):
        choice.resolve_backend("openvin0")


def test_precisions_of_each_backend(monkeypatch):
    for flag, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(choice.precision, "cpu_has_bfloat16", lambda flag=flag: flag)
        assert choice.resolve_precision("openvino", "auto") == expected
        monkeypatch.setattr(choice.precision, "has_fast_bfloat16", lambda flag=flag: flag)
        assert choice.resolve_precision("tensorflow", "auto") == expected
    assert choice.resolve_precision("openvino", "int8") == "int8"
    for name in ("float32", "bfloat16"):
        assert choice.resolve_precision("tensorflow", name) == name
    with pytest.raises(InputError, match="backend openvino"):
        choice.resolve_precision("tensorflow", "int8")
    with pytest.raises(InputError, match="precision"):
        choice.resolve_precision("openvino", "int4")


def test_a_network_is_exported_once_and_again_if_damaged(tmp_path):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    built = []

    def build():
        built.append(1)
        return create_model("dolg_resnet14", seed=0, **TINY)

    options = {"fingerprint": "abc", "cache_dir": tmp_path}
    folder = choice.exported(build, **options)
    assert choice.exported(build, **options) == folder and built == [1]
    weights = folder.path / network_folder.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-9])
    again = choice.exported(build, **options)
    assert (again.path, again.facts) == (folder.path, folder.facts) and built == [1, 1]
    again.read()
    network = choice.open_network(build, **options, wanted="bfloat16")
    assert network.precision == "bfloat16" and built == [1, 1]
    with pytest.raises(InputError, match="export --images_dir"):
        choice.open_network(build, **options, wanted="int8")
    with pytest.raises(InputError, match="quantised"):
        choice.open_network(build, **options, wanted="int8", quantized=folder.path)
