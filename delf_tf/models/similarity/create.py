"""Learned similarities of local features by name."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from delf_tf.artifacts import StrPath
from delf_tf.checks import invalid, require_choice
from delf_tf.models.similarity.ames import Ames
from delf_tf.models.similarity.elvis import Elvis
from delf_tf.models.zoo import checkpoint


class Similarity(NamedTuple):
    """How a similarity is made and trained.

    Attributes:
      layer: a class of layers with `initialize`, `logit` and `options`.
      options: of its constructor.
      num_features: least and most of an image, drawn for each step of training.
    """

    layer: type[tf.keras.layers.Layer]
    options: dict[str, Any]
    num_features: tuple[int, int]


# A new similarity is a layer here and its computation in `retrieval.second_stage.learned`.
SIMILARITIES = {
    "elvis": Similarity(Elvis, {}, (100, 600)),
    "ames": Similarity(Ames, {}, (16, 128)),
    "ames_student": Similarity(Ames, {"num_bits": 128}, (16, 128)),
}


def create(name: str, descriptor_dim: int, seed: int | None) -> tf.keras.layers.Layer:
    """Returns a row of SIMILARITIES for descriptors of a width, its weights drawn from a seed."""
    require_choice("model.name", name, SIMILARITIES)
    row = SIMILARITIES[name]
    layer = row.layer(descriptor_dim, **row.options)
    layer.initialize(seed)
    return layer


def load(path: StrPath) -> tf.keras.layers.Layer:
    """Returns the trained similarity of a weights file.

    Raises:
      InputError: no such file, or one of another network.
    """
    options, arrays = checkpoint.read_weights(path)
    require_choice("name", options["name"], SIMILARITIES)
    try:
        layer = SIMILARITIES[options["name"]].layer(**options["kwargs"])
        layer.build()
    except (TypeError, ValueError) as error:
        raise invalid("Weights must be those of a similarity.", path=path) from error
    checkpoint.assign(layer, arrays, path)
    return layer
