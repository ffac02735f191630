"""What a tool's user sees on standard error while TensorFlow is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from delf_tf.quiet_tensorflow import VARIABLE

IMPORT = "import delf_tf.tools, os, tensorflow; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])"
NOISE = "2026-01-01 00:00:00.0: E cuda_dnn.cc:1] Unable to register cuDNN factory: Attempting to"


def _run(script, repository, **variables):
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=repository,
        env={**environment, "CUDA_VISIBLE_DEVICES": "", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def pretended(tmp_path):
    """A folder with a package called tensorflow; takes its code, gives what PYTHONPATH needs."""

    def write(*lines):
        (tmp_path / "tensorflow").mkdir()
        (tmp_path / "tensorflow" / "__init__.py").write_text("\n".join(["import os", *lines]))
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        return {"PYTHONPATH": path.rstrip(os.pathsep)}

    return write


def test_tensorflow_is_imported_in_silence(repository):
    done = _run(f"{IMPORT}; tensorflow.config.list_physical_devices()", repository)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_who_sets_the_variable_sees_everything(repository, pretended):
    path = pretended(f"os.write(2, b'{NOISE}\\n')")
    done = _run(IMPORT, repository, **path, **{VARIABLE: "0"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", f"{NOISE}\n")


def test_what_is_no_noise_comes_through_in_order(repository, pretended):
    path = pretended(
        f"os.write(2, b'first\\n{NOISE}\\n')",
        "import sys",
        "print('second', file=sys.stderr)",
        "raise ImportError('libcudart is broken')",
    )
    done = _run(IMPORT, repository, **path)
    assert done.returncode == 1
    assert done.stderr.startswith("first\nsecond\nTraceback")
    assert done.stderr.endswith("ImportError: libcudart is broken\n")


def test_the_last_words_of_a_process_come_through(repository, pretended):
    path = pretended(f"os.write(2, b'{NOISE}\\nF this machine has no AVX\\n')", "os.abort()")
    done = _run(IMPORT, repository, **path)
    assert done.returncode < 0
    assert done.stderr == "F this machine has no AVX\n"


def test_help_loads_nothing_heavy(repository):
    script = (
        "import sys; from delf_tf.tools import main; main.main(['delf_tf', '--help']);"
        "assert not {'absl', 'tensorflow', 'numba', 'scipy'} & set(sys.modules)"
    )
    done = _run(script, repository)
    assert done.returncode == 0, done.stderr
