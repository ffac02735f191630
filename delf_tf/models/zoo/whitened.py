"""Writes fitted whitenings into the last layers of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import as_array, require, require_choice
from delf_tf.models.compact import Compact
from delf_tf.models.compact_lite import CompactLite
from delf_tf.models.create import create_model
from delf_tf.models.gem import Gem
from delf_tf.models.registry import MODELS, build
from delf_tf.models.variables import variables_by_path
from delf_tf.models.zoo import checkpoint

# For each pooled part: mean [D] and projection [d, D].
Fitted = Sequence[tuple[np.ndarray, np.ndarray]]


def with_whitening(
    model: Compact | CompactLite | Gem, fitted: Fitted
) -> Compact | CompactLite | Gem:
    """Returns the network with each pooled part x become L2(P (L2(x) − mean)).

    Args:
      model: a compact or pooled network without a whitening, built; it stays as it is.
      fitted: for each of `model.pooled_widths`, D: float mean [D] and P [d, D], of one d.

    Raises:
      InputError: another kind of network, one that has a whitening, other widths.
    """
    require(
        isinstance(model, (Compact, CompactLite, Gem)) and model.whitening is None,
        "Only a compact or pooled network without a whitening takes one.",
        hint="Give others theirs in the index: index.whitening.",
        model=model.options["name"],
    )
    widths = model.pooled_widths
    require(
        len(fitted) == len(widths),
        f"Each of the {len(widths)} pooled parts must have its whitening.",
        num_whitenings=len(fitted),
    )
    checked = []
    for width, (mean, projection) in zip(widths, fitted):
        checked.append(
            (
                as_array("mean", mean, (width,), np.float32),
                as_array("projection", projection, ("d", width), np.float32),
            )
        )
    dims = {len(projection) for _, projection in checked}
    require(len(dims) == 1, "All parts must be whitened to one width.", widths=sorted(dims))
    options = {**model.options["kwargs"], "embedding_dim": dims.pop()}
    whitened = build(model.options["name"], seed=0, **options)
    known = variables_by_path(model)
    for name, variable in variables_by_path(whitened).items():
        if name in known:
            variable.assign(known[name])
    for layer, (mean, projection) in zip(whitened.whitenings, checked):
        layer.kernel.assign(projection.T)
        layer.bias.assign(-projection @ mean)
    return whitened


def write_weights(
    weights: StrPath, vectors: np.ndarray, fit: Callable[[np.ndarray], Any], output: StrPath
) -> Path:
    """Writes weights of ours again with whitenings as the network's last layers; see above.

    Args:
      weights: of a compact or pooled network.
      vectors: float32 [N, D], what it pools; its parts lie side by side.
      fit: makes the whitening of one part, with a mean and a projection, of its vectors.
      output: of the file to write.

    Raises:
      InputError: weights of another kind of network, of one with a whitening, or of one that does
        not give such vectors.
    """
    stored = checkpoint.read_options(weights)
    # The file may come from anyone, and its name may be that of code.
    require_choice("The model of weights to be whitened", stored["name"], MODELS)
    model = create_model(stored["name"], weights)
    widths = getattr(model, "pooled_widths", vectors.shape[1:])
    require(
        sum(widths) == vectors.shape[1] or getattr(model, "whitening", None) is not None,
        "The store must hold what these weights give.",
        width=vectors.shape[1],
        expected=sum(widths),
    )
    parts = np.split(vectors, np.cumsum(widths)[:-1], axis=1)
    fitted = [fit(part) for part in parts]
    made = with_whitening(model, [(one.mean, one.projection) for one in fitted])
    return checkpoint.save_weights(made, output, stored["provenance"])
