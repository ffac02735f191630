"""Converts a TensorFlow model to a SavedModel and to the facts that other engines need."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from delf_tf.extraction import folding
from delf_tf.extraction.backends.network import DESCRIPTORS, NetworkFacts
from delf_tf.extraction.settings import offset_table
from delf_tf.models.retrieval_model import RetrievalModel

IMAGES = tf.TensorSpec([None, None, None, 3], tf.float32, name="images")


def network_facts(model: RetrievalModel) -> NetworkFacts:
    """Returns what an engine must know of a model."""
    names = tuple(name for name in DESCRIPTORS if name in model.output_names_available)
    probe = tf.zeros([1, 64, 64, 3])
    tensors = {name: tuple(sorted(model(probe, outputs=(name,)))) for name in names}
    has_local = model.local_output in names
    return NetworkFacts(
        options=model.options,
        output_names_available=names,
        tensors=tensors,
        global_dim=model.global_dim if "global" in names else None,
        local_dim=model.local_dim if has_local else None,
        local_output=model.local_output,
        local_stride=float(model.local_stride),
        local_offsets=tuple(map(float, offset_table(model))) if has_local else (),
    )


def write_saved_model(model: RetrievalModel, path: Path) -> Path:
    """Writes the folded model with all of its outputs as a SavedModel."""
    folded = folding.inference_copy(model) if isinstance(model, RetrievalModel) else model
    outputs = tuple(name for name in DESCRIPTORS if name in model.output_names_available)

    def run(images: tf.Tensor) -> dict[str, tf.Tensor]:
        found = folded(images, training=False, outputs=outputs)
        return {name: tf.cast(values, tf.float32) for name, values in found.items()}

    graph = tf.function(run, autograph=False).get_concrete_function(images=IMAGES)
    root = tf.Module(name="network")
    root.weights = list(graph.variables)
    tf.saved_model.save(root, str(path), signatures=graph)
    return path
