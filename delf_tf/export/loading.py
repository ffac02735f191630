"""Loads an exported SavedModel as an extractor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, invalid, require
from delf_tf.export.savedmodel import EXTRACT, FORMAT_VERSION, METADATA

_MAX_METADATA_BYTES = 1 << 20


class SavedExtractor:
    """Calls the "extract" signature of an exported SavedModel, as an Extractor is called.

    Attributes:
      metadata: what the exporter wrote beside the graph.
      global_dim: width of the global descriptor, or None.
      local_dim: width of local descriptors, or None.
      use_global_features: whether "global_descriptor" is given.
      use_local_features: whether local features are given.
    """

    def __init__(self, loaded: Any, metadata: dict[str, Any]):
        """Keeps a loaded SavedModel; `load_saved_extractor` makes both."""
        # Signatures do not keep what they are of alive.
        self._loaded = loaded
        self._extract = loaded.signatures[EXTRACT]
        self.metadata = metadata
        outputs = self._extract.structured_outputs
        self.use_global_features = "global_descriptor" in outputs
        self.use_local_features = "locations" in outputs
        self.global_dim, self.local_dim = (
            outputs[name].shape[-1] if name in outputs else None
            for name in ("global_descriptor", "descriptors")
        )

    def __call__(self, image: np.ndarray | tf.Tensor) -> dict[str, tf.Tensor]:
        """Extracts features; see extraction.extractor.Extractor.__call__.

        Raises:
          InputError: not a uint8 image [H, W, 3].
        """
        image = tf.convert_to_tensor(image)
        require(
            image.dtype == tf.uint8 and image.shape.rank == 3 and image.shape[-1] == 3,
            "image must be uint8 RGB of shape [H, W, 3].",
            shape=tuple(image.shape),
            dtype=image.dtype.name,
        )
        return self._extract(image=image)


def is_saved_model(path: StrPath) -> bool:
    """Tells whether `path` is a folder with a SavedModel."""
    return Path(path, "saved_model.pb").is_file()


def load_saved_extractor(path: StrPath) -> SavedExtractor:
    """Loads what `savedmodel.export_extractor` wrote.

    A SavedModel is a program: load only what you trust.

    Args:
      path: the folder.

    Raises:
      InputError: no such SavedModel, a damaged one, or one that another program wrote.
    """
    path = Path(path)
    require(
        is_saved_model(path),
        "path must be a folder with a SavedModel.",
        hint="`delf_tf export` writes one.",
        path=path,
    )
    metadata = _read_metadata(path)
    try:
        loaded = tf.saved_model.load(str(path))
        return SavedExtractor(loaded, metadata)
    except InputError:
        raise
    except Exception as error:  # Damaged files raise nearly everything.
        raise invalid(
            "A SavedModel must be whole.",
            hint=f"Export it again. TensorFlow says: {' '.join(str(error).split())[:300]}",
            path=path,
        ) from None


def _read_metadata(path: Path) -> dict[str, Any]:
    file = path / METADATA
    try:
        require(file.stat().st_size <= _MAX_METADATA_BYTES, f"{file} must be at most 1 MiB.")
        metadata = json.loads(file.read_text(encoding="utf-8"))
        version = metadata["format_version"]
    except FileNotFoundError:
        raise invalid(
            f"A SavedModel must hold {METADATA}, as those of `delf_tf export` do.",
            path=path,
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError, TypeError, KeyError, RecursionError):
        raise invalid(f"{METADATA} must be whole.", hint="Export again.", path=path) from None
    require(
        version == FORMAT_VERSION,
        f"The SavedModel's format must be version {FORMAT_VERSION}.",
        hint="Export it again with this version of delf_tf.",
        path=path,
        format_version=version,
    )
    return metadata
