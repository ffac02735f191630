"""Joins the weights of two networks to those of a CompactLite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.models.compact_lite import CompactLite
from delf_tf.models.registry import build
from delf_tf.models.variables import variables_by_path
from delf_tf.models.zoo import checkpoint

# What `convert_weights --source` calls it, and what it makes.
SOURCE = "compact_parts"
NAME = "compact_efficientnet_lite2"


def join_files(
    name: str, backbone_path: StrPath, local_path: StrPath, output: StrPath, **options: Any
) -> Path:
    """Writes the weights of a CompactLite whose parts stand in two files; nothing is trained.

    An attention, if the options ask for one, is random (seed 0).

    Args:
      name: of the network, such as "compact_efficientnet_lite2".
      backbone_path: weights of the GeM baseline with its backbone ("gem_efficientnet_lite2").
      local_path: weights of "xfeat".
      output: of the file to write; its provenance holds those of both.
      **options: of the network.

    Raises:
      InputError: a damaged file, or one of another network.
    """
    model = build(name, 0, **options)
    require(isinstance(model, CompactLite), "Only a CompactLite is made of parts.", name=name)
    backbone, backbone_arrays = checkpoint.read_weights(backbone_path)
    local, local_arrays = checkpoint.read_weights(local_path)
    require(
        backbone["preprocessing"] == model.options["preprocessing"],
        f"The first file must hold the backbone of {name}.",
        path=Path(backbone_path),
        model=backbone["name"],
    )
    require(
        local["name"] == "xfeat",
        "The second file must hold xfeat.",
        path=Path(local_path),
        model=local["name"],
    )
    values = {path: np.asarray(one) for path, one in variables_by_path(model).items()}
    values |= {path: one for path, one in backbone_arrays.items() if path.startswith("backbone.")}
    values |= {f"local_network.{path}": one for path, one in local_arrays.items()}
    checkpoint.assign(model, values, backbone_path)
    sources = {"backbone": backbone["provenance"], "local": local["provenance"]}
    return checkpoint.save_weights(model, output, sources)
