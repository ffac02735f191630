from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from delf_tf.tools import main

MODEL = 'model {{ name: "{}_mobilenet_v2" width_multiplier: 0.35 seed: 3 }}\n'
EXTRACTION = "extraction { max_image_size: 64 use_local_features: true max_num_features: 5 }\n"


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (60, 90, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("family", ["gem", "dolg"])
def test_draws_a_picture(family, photograph, tmp_path, capsys):
    config = tmp_path / "tiny.textproto"
    config.write_text(MODEL.format(family) + EXTRACTION)
    output = tmp_path / "out.png"
    arguments = [str(photograph), f"--config={config}", f"--output={output}"]
    assert main.main(["delf_tf", "visualize", *arguments]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    with Image.open(output) as picture:
        assert picture.width > 600


def test_bad_commands(photograph, tmp_path, capsys):
    config = tmp_path / "tiny.textproto"
    config.write_text(MODEL.format("gem") + EXTRACTION)
    command = ["delf_tf", "visualize", f"--config={config}", f"--output={tmp_path / 'o.png'}"]
    assert main.main(command) == 2
    assert "takes one image" in capsys.readouterr().err
    assert main.main([*command, str(tmp_path / "none.jpg")]) == 1
    assert "must exist" in capsys.readouterr().err
    assert main.main([*command, str(photograph), "--max_num_superfeatures=0"]) == 2
    assert not (tmp_path / "o.png").exists()
