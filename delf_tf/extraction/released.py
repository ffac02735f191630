"""Runs SavedModels of the original DELF code, published ones and exported ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, invalid, require
from delf_tf.extraction.extractor import as_constants, pool, project
from delf_tf.extraction.settings import BaseExtractor, ExtractionSettings

_LOCAL = ("boxes", "features", "scales", "scores")
_GLOBAL = "global_descriptors"
_LOCAL_SETTINGS = ("input_abs_thres", "input_max_feature_num")
_PROBE_SIDE_PX = 64

Run = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]


class ReleasedExtractor(BaseExtractor):
    """Calls a SavedModel of the original code as an Extractor is called.

    Released models are graphs of TensorFlow 1, of which the tensors are fed and fetched by name;
    those of its TensorFlow 2 exporters have a signature. Locations are the centres of the receptive
    boxes that the model gives: stride times index over scale, by the original's convention.
    """

    def __init__(self, path: StrPath, **settings: Any):
        """Loads the SavedModel and runs it once. It is a program: load only what you trust.

        Args:
          path: its folder.
          **settings: see ExtractionSettings; how features suppress one another is the model's own.

        Raises:
          InputError: a setting out of its range, not a SavedModel of the original, or one without
            the features asked for.
        """
        chosen = ExtractionSettings(**settings)
        require(
            chosen.nms_iou >= 1 and not chosen.border_cells,
            "nms_iou and border_cells must be left out: a SavedModel has its own.",
            nms_iou=chosen.nms_iou,
            border_cells=chosen.border_cells,
        )
        self._settings = {
            "input_scales": tf.constant(chosen.image_scales, tf.float32),
            "input_max_feature_num": tf.constant(chosen.max_num_features, tf.int32),
            "input_abs_thres": tf.constant(chosen.score_threshold, tf.float32),
            "input_global_scales_ind": tf.constant(chosen.global_scales_ind, tf.int32),
        }
        self._run = _load(Path(path), chosen.use_global_features, chosen.use_local_features)
        widths = self._probe(Path(path))
        self.apply_settings(chosen, widths.get(_GLOBAL), widths.get("features"))
        self._global, self._local = map(
            as_constants, (self.global_projection, self.local_projection)
        )

    def __call__(self, image: np.ndarray | tf.Tensor) -> dict[str, tf.Tensor]:
        """Extracts features; see Extractor.__call__.

        Args:
          image: uint8 [H, W, 3], RGB.
        """
        image = tf.convert_to_tensor(image)
        outputs = self._run({"input_image": image, **self._settings})
        result = {}
        if self.use_global_features:
            result["global_descriptor"] = pool(project(outputs[_GLOBAL], self._global))
        if self.use_local_features:
            boxes = outputs["boxes"]
            result["locations"] = (boxes[:, :2] + boxes[:, 2:]) / 2
            result["descriptors"] = project(outputs["features"], self._local)
            result["scores"] = tf.reshape(outputs["scores"], [-1])
            result["scales"] = outputs["scales"]
        return result

    def _probe(self, path: Path) -> dict[str, int]:
        """Runs the model once and returns the widths of its descriptors."""
        image = np.zeros((_PROBE_SIDE_PX, _PROBE_SIDE_PX, 3), np.uint8)
        settings = {**self._settings, "input_abs_thres": tf.constant(np.float32(-1e30))}
        try:
            outputs = self._run({"input_image": tf.constant(image), **settings})
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise invalid(
                "The SavedModel must run on an image.",
                hint=f"TensorFlow says: {' '.join(str(error).split())[:300]}",
                path=path,
            ) from None
        return {name: int(value.shape[-1]) for name, value in outputs.items()}


def _load(path: Path, use_global: bool, use_local: bool) -> Run:
    require(
        (path / "saved_model.pb").is_file(), "path must be a folder with a SavedModel.", path=path
    )
    inputs = ["input_image", "input_scales"]
    inputs += list(_LOCAL_SETTINGS) * use_local + ["input_global_scales_ind"] * use_global
    outputs = list(_LOCAL) * use_local + [_GLOBAL] * use_global
    try:
        loaded = tf.saved_model.load(str(path))
        signature = loaded.signatures.get("serving_default")
        if signature is not None and "input_image" in signature.structured_input_signature[1]:
            return _from_signature(loaded, signature, outputs)
        return _from_graph(loaded, inputs, outputs)
    except InputError:
        raise
    except Exception as error:  # Damaged and foreign files raise nearly everything.
        raise invalid(
            f"The SavedModel must take {', '.join(inputs)} and give {', '.join(outputs)}.",
            hint=f"TensorFlow says: {' '.join(str(error).split())[:300]}",
            path=path,
        ) from None


def _from_signature(loaded: Any, signature: Any, outputs: list[str]) -> Run:
    """Returns the call of a model of the original's TensorFlow 2 exporters."""
    takes = signature.structured_input_signature[1]
    missing = [name for name in outputs if name not in signature.structured_outputs]
    require(
        not missing,
        f"The SavedModel must give {', '.join(missing)}.",
        hint=f"It gives {', '.join(sorted(signature.structured_outputs))}.",
    )

    def run(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # A joint model takes what only its global features need also when they are not wanted.
        found = signature(**{name: value for name, value in values.items() if name in takes})
        return {name: found[name] for name in outputs}

    # A signature does not keep its model's variables alive.
    run.model = loaded
    return run


def _from_graph(loaded: Any, inputs: list[str], outputs: list[str]) -> Run:
    """Returns the call of a TensorFlow 1 graph, by the names of its tensors."""
    pruned = loaded.prune(
        feeds=[f"{name}:0" for name in inputs],
        fetches={name: f"{name}:0" for name in outputs},
    )

    def run(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return pruned(*(values[name] for name in inputs))

    run.model = loaded
    return run
