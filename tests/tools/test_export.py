from __future__ import annotations

import numpy as np
import pytest

import delf_tf
from delf_tf.checks import InputError
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
    with pytest.raises(InputError, match="must be left out"):
        delf_tf.load_extractor(output, weights="w.npz")
    assert _run(f"--config={config}", f"--output_dir={output}") == 1
    assert "--overwrite replaces it" in capsys.readouterr().err


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
