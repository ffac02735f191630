"""A fitted whitening as the last layer of a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import as_array, require, require_choice
from delf_tf.models.compact import Compact
from delf_tf.models.create import create_model
from delf_tf.models.registry import MODELS, build
from delf_tf.models.variables import variables_by_path
from delf_tf.models.zoo import checkpoint


def with_whitening(model: Compact, mean: np.ndarray, projection: np.ndarray) -> Compact:
    """Returns the network with pooled descriptors x → L2(P (L2(x) − mean)).

    Args:
      model: a compact network without a whitening, built; it stays as it is.
      mean: float [D], D the width of the pooled descriptor.
      projection: float [d, D].

    Raises:
      InputError: another kind of network, one that has a whitening, other widths.
    """
    require(
        isinstance(model, Compact) and model.whitening is None,
        "Only a compact network without a whitening takes one.",
        hint="Give others theirs in the index: index.whitening.",
        model=model.options["name"],
    )
    width = model.expansion.channels
    mean = as_array("mean", mean, (width,), np.float32)
    projection = as_array("projection", projection, ("d", width), np.float32)
    options = {**model.options["kwargs"], "embedding_dim": len(projection)}
    whitened = build(model.options["name"], seed=0, **options)
    known = variables_by_path(model)
    for name, variable in variables_by_path(whitened).items():
        if name in known:
            variable.assign(known[name])
    whitened.whitening.kernel.assign(projection.T)
    whitened.whitening.bias.assign(-projection @ mean)
    return whitened


def write_weights(
    weights: StrPath, mean: np.ndarray, projection: np.ndarray, output: StrPath
) -> Path:
    """Writes weights of ours again with a whitening as the network's last layer; see above.

    Raises:
      InputError: weights of another kind of network, or of one with a whitening.
    """
    stored = checkpoint.read_options(weights)
    # The file may come from anyone, and its name may be that of code.
    require_choice("The model of weights to be whitened", stored["name"], MODELS)
    made = with_whitening(create_model(stored["name"], weights), mean, projection)
    return checkpoint.save_weights(made, output, stored["provenance"])
