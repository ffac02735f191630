"""Models from outside the package, to be made by dotted name."""

from __future__ import annotations

from delf_tf.models.delg import Delg


def tiny(embedding_dim: int = 4):
    return Delg("mobilenet_v2", width_multiplier=0.125, embedding_dim=embedding_dim, local_dim=4)


def not_a_model():
    return []
