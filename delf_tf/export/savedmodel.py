"""Writes an Extractor as a SavedModel that TensorFlow Serving serves as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from delf_tf import artifacts
from delf_tf.checks import require, require_absent
from delf_tf.export import signatures
from delf_tf.extraction.extractor import Extractor

# The folder that SavedModels keep for what their makers add.
METADATA = Path("assets.extra") / "delf_tf.json"
FORMAT_VERSION = 1

ORIGINAL = "serving_default"
EXTRACT = "extract"


def export_extractor(
    extractor: Extractor,
    output_dir: artifacts.StrPath,
    *,
    kind: str | None = None,
    fixed_scales: bool = False,
    pool_scales: bool = False,
    fingerprint: str = "",
    overwrite: bool = False,
) -> Path:
    """Writes a SavedModel with two signatures.

    "serving_default" is the original DELF code's (signatures.original), "extract" the Extractor's
    own call, of which `loading.load_saved_extractor` makes an extractor again. No Keras object is
    in the file: any TensorFlow 2 reads it.

    Args:
      extractor: what is computed.
      output_dir: folder to make; TensorFlow Serving wants a number as its name: delg/1.
      kind: of "serving_default", one of export.KINDS; None: all that the Extractor gives.
      fixed_scales: see signatures.original.
      pool_scales: see signatures.original.
      fingerprint: of everything that shapes the features; kept beside the graph.
      overwrite: replace an existing folder.

    Returns:
      output_dir, which appears when it is complete and not before.

    Raises:
      InputError: the folder exists, or the Extractor does not give what the kind needs.
    """
    output_dir = Path(output_dir)
    require_absent("output_dir", output_dir, overwrite)
    require(
        isinstance(extractor, Extractor),
        "Only an Extractor can be exported: a SavedModel of the original is one already.",
        extractor=type(extractor).__name__,
    )
    kind = kind or signatures.default_kind(extractor)
    graphs = {
        ORIGINAL: signatures.original(
            extractor, kind, fixed_scales=fixed_scales, pool_scales=pool_scales
        ),
        EXTRACT: signatures.extract(extractor),
    }
    metadata = {
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "global_dim": extractor.global_dim,
        "local_dim": extractor.local_dim,
        "image_scales": list(extractor.settings.image_scales),
        "model": dict(extractor.model.options),
        "fingerprint": fingerprint,
        "tensorflow": tf.__version__,
    }
    with artifacts.atomic_folder(output_dir) as folder:
        tf.saved_model.save(_root(graphs), str(folder), signatures=graphs)
        artifacts.write_json(folder / METADATA, metadata)
    logging.info("Exported %s (%s).", output_dir, ", ".join(graphs))
    return output_dir


def _root(graphs: dict[str, Any]) -> tf.Module:
    """Returns what the SavedModel is of: the variables that the graphs use, no Keras object."""
    root = tf.Module(name="delf_tf")
    used = {id(variable): variable for graph in graphs.values() for variable in graph.variables}
    root.weights = list(used.values())
    return root
