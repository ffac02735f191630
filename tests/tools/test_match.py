"""match: two images in, a picture of their inliers, with no more libraries than it takes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
from PIL import Image

from delf_tf import synthetic

# What takes long to import, and `match` can do without.
SLOW = ("tensorflow", "faiss", "sklearn", "scipy.sparse")


def _modules(script):
    """Returns which of SLOW a Python process has imported after a script."""
    listing = f"import sys\nprint('loaded:', *[name for name in {SLOW!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}\n{listing}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()[1:]


def test_starts_without_libraries_it_does_not_use():
    assert _modules("import delf_tf.tools.match") == []


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino")
def test_openvino_needs_no_tensorflow_once_the_network_is_exported(tmp_path, monkeypatch):
    monkeypatch.setenv("DELF_TF_CACHE", str(tmp_path / "cache"))
    for view in range(2):
        image = synthetic.render_view(1, view, (160, 200))
        Image.fromarray(image).save(tmp_path / f"{view}.png")
    paths = [str(tmp_path / f"{view}.png") for view in range(2)]
    arguments = ["delf_tf", "match", *paths, "--backend=openvino"]
    output = tmp_path / "matches.png"
    script = (
        "from delf_tf.tools.main import main\n"
        f"assert main({[*arguments, f'--output={output}']!r}) == 0"
    )
    assert "tensorflow" in _modules(script)
    output.unlink()
    assert "tensorflow" not in _modules(script)
    with Image.open(output) as picture:
        assert picture.width > 2 * 200
