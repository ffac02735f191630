"""TensorFlow imported without what it always prints on a machine that has no GPU.

TF_CPP_MIN_LOG_LEVEL silences only a part of it: the rest is written before TensorFlow reads its
settings, or counts as an error. While TensorFlow is imported, standard error therefore runs through
a process of its own, which drops the lines of `NOISE` and passes on all others, even if TensorFlow
ends this process.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
NOISE = "|".join(
    (
        "All log messages before absl::InitializeLog",
        "oneDNN custom operations are on",
        "This TensorFlow binary is optimized",
        "To enable the following instructions",
        "Could not find cuda drivers",
        "Could not find TensorRT",
        r"Unable to register cu\w+ factory",
        "computation placer already registered",
        # No driver, or no device: a GPU that does not work is another error.
        r"failed call to cuInit: .*(303|CUDA_ERROR_NO_DEVICE)",
    )
)
_FILTER = """
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
noise = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if not noise.search(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


def install() -> None:
    """Makes the first import of TensorFlow quiet, unless the user has set TF_CPP_MIN_LOG_LEVEL."""
    if VARIABLE not in os.environ and "tensorflow" not in sys.modules:
        os.environ[VARIABLE] = "2"
        sys.meta_path.insert(0, _Finder())


@contextlib.contextmanager
def without_noise() -> Iterator[None]:
    """Drops the lines of `NOISE` from what is written to file descriptor 2 meanwhile."""
    sys.stderr.flush()
    kept = os.dup(2)
    argv = [sys.executable, "-I", "-S", "-c", _FILTER, NOISE]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=kept) as process:
        os.dup2(process.stdin.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


class _Finder:
    """Finds TensorFlow as Python does, and has it executed without noise."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None and sys.stderr is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_quietly(module: Any) -> None:
                with without_noise():
                    execute(module)
                    # The list of devices is where a missing driver is first complained of.
                    module.config.list_physical_devices()

            loader.exec_module = execute_quietly
        return spec
