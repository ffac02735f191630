"""Who waits for the compiler is told why, and what was compiled is kept."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import numpy as np
from absl import logging
logging.use_absl_handler()
logging.set_verbosity(logging.INFO)
from delf_tf.matching.kernels.points import standardize
points = np.zeros((4, 3), np.float32)
standardize(np.eye(3, 2, dtype=np.float32), np.arange(3), points, 0)
standardize(np.eye(3, 2), np.arange(3), points, 0)
"""


def _run(cache):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stderr


def test_the_first_process_says_once_that_it_compiles_and_the_next_does_not(tmp_path):
    assert _run(tmp_path).count("Compiling the inner loops of matching") == 1
    assert "Compiling" not in _run(tmp_path)
