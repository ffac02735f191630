from __future__ import annotations

import json

import numpy as np
import pytest

import delf_tf
from delf_tf.checks import InputError
from delf_tf.export import xla_program
from delf_tf.tools import main

CONFIG = """
model { name: "gem_mobilenet_v2" width_multiplier: 0.35 seed: 3 }
extraction {
  image_scales: 1.0
  max_image_size: 64
  use_local_features: true
  max_num_features: 5
}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.textproto"
    path.write_text(CONFIG)
    return str(path)


def _run(*arguments):
    return main.main(["delf_tf", "export", *map(str, arguments)])


def test_export_and_load(config, tmp_path, capsys):
    output = tmp_path / "tiny" / "1"
    assert _run(f"--config={config}", f"--output_dir={output}") == 0
    assert capsys.readouterr().out.strip() == str(output)
    image = np.random.RandomState(0).randint(0, 256, (48, 64, 3), np.uint8)
    saved = delf_tf.load_extractor(output)
    made = delf_tf.load_extractor(config, overrides=["extraction.max_num_features=5"])
    got, want = saved(image), made(image)
    assert sorted(got) == sorted(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5)
    assert saved.metadata["limits"]["max_image_size"] == 64
    with pytest.raises(InputError, match="must be left out"):
        delf_tf.load_extractor(output, weights="w.npz")
    assert _run(f"--config={config}", f"--output_dir={output}") == 1
    assert "--overwrite replaces it" in capsys.readouterr().err


def test_an_xla_program_and_its_rate(config, tmp_path, capsys):
    output, made = tmp_path / "tiny", delf_tf.load_extractor(config)
    size = ["--image_height=48", "--image_width=64", "--batch_size=2"]
    assert _run(f"--config={config}", f"--output_dir={output}", "--format=hlo", *size) == 0
    assert capsys.readouterr().out.strip() == str(output)
    pytest.importorskip("jax", reason="the extra delf_tf[xla] is not installed")
    image = np.random.RandomState(0).randint(0, 256, (48, 64, 3), np.uint8)
    got = xla_program.load_program(output)(image[np.newaxis])
    for name, value in made(image).items():
        np.testing.assert_allclose(got[name][0], value, rtol=1e-5, atol=1e-5)
    argv = ["delf_tf", "benchmark", "xla", f"--set=directory={output}", "--set=rounds=2"]
    assert main.main([*argv, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["batch_size"], said["image_size"], said["rounds"]) == (2, [48, 64], 2)
    assert (said["model"], said["precision"]) == ("gem_mobilenet_v2", "float32")
    assert [row["way"] for row in said["rows"]] == ["host", "device"]
    for row in said["rows"]:
        assert row["images_per_s"] == pytest.approx(2000 / row["ms_per_batch"])
    assert said["program_mib"] > 0
    assert main.main(argv) == 0
    assert "images_per_s" in capsys.readouterr().out


def test_bad_commands_for_xla(config, tmp_path, capsys):
    arguments = [f"--config={config}", f"--output_dir={tmp_path / 'out'}"]
    assert _run(*arguments, "--format=hlo", "--image_height=48") == 2
    assert "--image_width must be given" in capsys.readouterr().err
    size = ["--image_height=48", "--image_width=64"]
    assert _run(*arguments, *size) == 2
    assert "--image_height, --image_width must go with --format=hlo" in capsys.readouterr().err
    assert _run(*arguments, *size, "--format=hlo", "--pool_scales") == 2
    assert "must go with --format=savedmodel" in capsys.readouterr().err
    assert _run(*arguments, *size, "--format=hlo", "--batch_size=0") == 1
    assert "batch_size must be 1 to" in capsys.readouterr().err
    assert _run(*arguments, "--format=onnx") == 2
    assert main.main(["delf_tf", "benchmark", "xla"]) == 2
    assert main.main(["delf_tf", "benchmark", "xla", f"--set=directory={tmp_path}"]) == 1
    assert "must hold program.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_bad_commands(config, tmp_path, capsys):
    output = f"--output_dir={tmp_path / 'out'}"
    assert _run(output) == 2
    assert _run(f"--config={config}") == 2
    assert _run(f"--config={config}", output, "--kind=both") == 2
    assert "kind must be one of local, local_and_global, global" in capsys.readouterr().err
    assert _run(f"--config={config}", output, "--set=extraction.local_pca.dim=4") == 1
    assert "must be fitted before" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_local_signature_of_a_global_model(config, tmp_path, capsys):
    arguments = [f"--config={config}", f"--output_dir={tmp_path / 'out'}", "--kind=local"]
    assert _run(*arguments, "--set=model.name=dolg_mobilenet_v2") == 1
    assert "must give local features" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_to_load(tmp_path):
    with pytest.raises(InputError, match="folder with a SavedModel"):
        delf_tf.load_extractor(tmp_path)
    with pytest.raises(InputError, match="config must be a file"):
        delf_tf.load_extractor("no_such_config")
