"""Joins the weights of two networks to those of a CompactLite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.models.backbones.inverted_residuals import InvertedResiduals
from delf_tf.models.compact_lite import CompactLite
from delf_tf.models.registry import build
from delf_tf.models.retrieval_model import RetrievalModel
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
    backbone, backbone_source = _read(backbone_path)
    local, local_source = _read(local_path)
    require(
        isinstance(backbone.backbone, InvertedResiduals)
        and backbone.backbone.network == model.backbone.network
        and backbone.options["preprocessing"] == model.options["preprocessing"],
        f"The first file must hold the backbone of {name}.",
        path=Path(backbone_path),
        model=backbone.options["name"],
    )
    require(
        type(local) is type(model.local_network),
        "The second file must hold xfeat.",
        path=Path(local_path),
        model=local.options["name"],
    )
    assign(model.backbone, backbone.backbone)
    assign(model.local_network, local)
    sources = {"backbone": backbone_source, "local": local_source}
    return checkpoint.save_weights(model, output, sources)


def assign(to: Any, source: Any) -> None:
    """Copies all variables of a layer to another of the same structure."""
    values = variables_by_path(source)
    for path, variable in variables_by_path(to).items():
        variable.assign(values[path])


def _read(path: StrPath) -> tuple[RetrievalModel, dict[str, Any]]:
    stored = checkpoint.read_options(path)
    model = build(
        stored["name"], 0, **{**stored["kwargs"], "preprocessing": stored["preprocessing"]}
    )
    checkpoint.load_weights(model, path)
    return model, stored["provenance"]
