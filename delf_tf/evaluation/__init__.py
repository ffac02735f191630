"""Rankings to metrics; no dataset is known here; no TensorFlow. Layer 1."""

from __future__ import annotations

import importlib

_PUBLIC = {
    "average_precision": "delf_tf.evaluation.metrics",
    "evaluate_ranking": "delf_tf.evaluation.metrics",
    "mean_by_place": "delf_tf.evaluation.metrics",
    "RankingMetrics": "delf_tf.evaluation.metrics",
    "recognition_metrics": "delf_tf.evaluation.landmarks",
    "retrieval_metrics": "delf_tf.evaluation.landmarks",
    "recognize": "delf_tf.evaluation.voting",
    "recall_at_k": "delf_tf.evaluation.metrics",
    "bootstrap_interval": "delf_tf.evaluation.significance",
    "paired_test": "delf_tf.evaluation.significance",
    "Conditions": "delf_tf.evaluation.results",
    "load_results": "delf_tf.evaluation.results",
    "ranking_results": "delf_tf.evaluation.results",
    "revisited_results": "delf_tf.evaluation.results",
    "save_results": "delf_tf.evaluation.results",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> object:
    """Loads a public name from the module that defines it."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'delf_tf.evaluation' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
