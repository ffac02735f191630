"""delf_tf: instance-level image retrieval in TensorFlow.

DELF, DELG, DOLG and Super-features: networks, extraction, matching, retrieval, training and
evaluation. Public names are loaded on first use, so that `import delf_tf` takes milliseconds and
code that needs no network never imports TensorFlow.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "create_model": "delf_tf.models.create",
    "list_models": "delf_tf.models.registry",
    "open_model": "delf_tf.pipelines.photos.model",
    "open_photos": "delf_tf.pipelines.photos.model",
    "load_extractor": "delf_tf.pipelines.photos.model",
    "ImageRef": "delf_tf.types",
    "LocalFeatures": "delf_tf.types",
    "GlobalDescriptors": "delf_tf.types",
    "Ranking": "delf_tf.types",
    "Verification": "delf_tf.types",
    "GroundTruth": "delf_tf.types",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    """Loads a public name from the module that defines it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'delf_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
