"""Runs networks by OpenVINO on a CPU, in float32, bfloat16, or int8 after quantisation."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import require, require_choice
from delf_tf.extraction.backends import openvino_runtime
from delf_tf.extraction.backends.network_folder import NetworkFolder
from delf_tf.extraction.backends.precision import BFLOAT16, FLOAT32, INT8
from delf_tf.extraction.resize import pyramid_level

PRECISIONS = (FLOAT32, BFLOAT16, INT8)


class OpenVinoNetwork:
    """A network.Network; compiled once for each set of outputs, for images of any size.

    Attributes:
      facts: of the network.
      precision: of its convolutions.
    """

    def __init__(
        self,
        folder: NetworkFolder,
        *,
        precision: str = FLOAT32,
        cache_dir: StrPath | None = None,
    ):
        """Reads the network.

        Args:
          folder: of network_folder.
          precision: one of PRECISIONS; "int8" with a quantised network, and only then.
          cache_dir: where OpenVINO keeps what it compiled; None for nowhere.

        Raises:
          InputError: an unknown precision, one that is not the folder's, or damaged files.
        """
        require_choice("precision", precision, PRECISIONS)
        require(
            (precision == INT8) == (folder.weights_dtype == INT8),
            "precision int8 must go with a quantised network, and others without.",
            hint="`delf_tf export --images_dir` makes one; quantized_network names it.",
            precision=precision,
            weights_dtype=folder.weights_dtype,
        )
        self.facts, self.precision = folder.facts, precision
        self._network = folder.read()
        # What int8 leaves out is computed in float32.
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == BFLOAT16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if cache_dir is not None:
            Path(cache_dir).mkdir(parents=True, exist_ok=True)
            self._options["CACHE_DIR"] = str(cache_dir)
        self._requests: dict[tuple[str, ...], Any] = {}
        # An inference request serves one caller at a time, and one of them uses all cores.
        self._lock = threading.Lock()

    def __call__(
        self, images: np.ndarray, level_size: tuple[int, int], outputs: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        """See network.Network."""
        inputs = {"images": pyramid_level(images, level_size)}
        with self._lock:
            if outputs not in self._requests:
                self._requests[outputs] = self._compile(outputs)
            found = self._requests[outputs].infer(inputs)
            return {name: np.array(found[name]) for name in self._tensors(outputs)}

    def _tensors(self, outputs: tuple[str, ...]) -> list[str]:
        return [name for output in outputs for name in self.facts.tensors[output]]

    def _compile(self, outputs: tuple[str, ...]) -> Any:
        """Returns an inference request of the part of the network that `outputs` needs."""
        network = self._network
        results = [
            one.get_node()
            for one in network.outputs
            if set(one.get_names()) & set(self._tensors(outputs))
        ]
        part = openvino_runtime.load().Model(results, network.get_parameters(), "network")
        compiled = openvino_runtime.core().compile_model(part, "CPU", self._options)
        return compiled.create_infer_request()
