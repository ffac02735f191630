"""Two images: nearest neighbours and geometric verification; no TensorFlow. Layer 1."""

from __future__ import annotations

import importlib

_PUBLIC = {
    "match": "delf_tf.matching.nearest",
    "verify": "delf_tf.matching.verification",
    "verify_many": "delf_tf.matching.verification",
    "estimate_transform": "delf_tf.matching.ransac",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> object:
    """Loads a public name from the module that defines it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'delf_tf.matching' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
