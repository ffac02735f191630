"""The table of backbones: name -> function that makes it and knows its usual preprocessing."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from delf_tf.checks import invalid, require, require_choice
from delf_tf.models.backbones.backbone import Backbone
from delf_tf.models.backbones.chains import CHAINS
from delf_tf.models.backbones.inverted_residuals import InvertedResiduals
from delf_tf.models.backbones.keras_networks import KerasNetwork, published_preprocessing
from delf_tf.models.backbones.resnet import FORMS, ResNet
from delf_tf.models.backbones.resnet_v2 import ResNetV2
from delf_tf.models.layers import IMAGENET_RGB

KERAS_PREFIX = "keras:"

# The original DELF code's normalisation: (x - 128) / 128.
DELF_RGB = {"channel_order": "RGB", "mean": [128.0] * 3, "std": [128.0] * 3}
# TF-slim's: x / 127.5 - 1.
INCEPTION_RGB = {"channel_order": "RGB", "mean": [127.5] * 3, "std": [127.5] * 3}
# The EfficientNet-Lite of Google's TPU repository: (x - 127) / 128.
LITE_RGB = {"channel_order": "RGB", "mean": [127.0] * 3, "std": [128.0] * 3}
# tf.keras.applications' "caffe" mode.
CAFFE_BGR = {"channel_order": "BGR", "mean": [103.939, 116.779, 123.68], "std": [1.0] * 3}

PREPROCESSING_OF_FORM = {
    "torchvision": IMAGENET_RGB,
    "keras": DELF_RGB,
    "keras_applications": CAFFE_BGR,
}


def _resnet(
    depth: int,
    backbone_form: str = "torchvision",
    width_multiplier: float = 1.0,
    last: str = "stride32",
) -> tuple[Backbone, dict[str, Any]]:
    require_choice("backbone_form", backbone_form, FORMS)
    backbone = ResNet(depth, backbone_form, width_multiplier, last)
    return backbone, PREPROCESSING_OF_FORM[backbone_form]


def _keras_network(network: str, last: str = "stride32") -> tuple[Backbone, dict[str, Any]]:
    backbone = KerasNetwork(network, last)
    return backbone, published_preprocessing(network)


def _inverted_residuals(
    network: str, width_multiplier: float = 1.0, last: str = "stride32"
) -> tuple[Backbone, dict[str, Any]]:
    preprocessing = IMAGENET_RGB if network == "mobilenet_v2" else LITE_RGB
    return InvertedResiduals(network, width_multiplier, last), preprocessing


def _resnet50_v2(last: str = "stride16") -> tuple[Backbone, dict[str, Any]]:
    require(last != "stride32", "resnet50_v2 must be used up to stride16: stage 5 is not there.")
    return ResNetV2(), INCEPTION_RGB


BACKBONES: dict[str, Callable[..., tuple[Backbone, dict[str, Any]]]] = {
    "resnet14": functools.partial(_resnet, 14),
    "resnet20": functools.partial(_resnet, 20),
    "resnet50": functools.partial(_resnet, 50),
    "resnet101": functools.partial(_resnet, 101),
    "resnet152": functools.partial(_resnet, 152),
    "resnet50_v2": _resnet50_v2,
    **{network: functools.partial(_inverted_residuals, network) for network in CHAINS},
}


def create_backbone(
    name: str,
    backbone_form: str | None = None,
    width_multiplier: float | None = None,
    last: str | None = None,
) -> tuple[Backbone, dict[str, Any]]:
    """Makes a backbone.

    Args:
      name: a key of BACKBONES, or "keras:NETWORK" for a network of tf.keras.applications.
      backbone_form: which published ResNet it is (resnet.FORMS); None: the backbone's default.
      width_multiplier: of all channels; None: 1.
      last: the deepest level that will be used; None: the backbone's own.

    Returns:
      The layer, and the arguments of layers.Preprocessing that its published weights expect.

    Raises:
      InputError: no such backbone, or one that does not take an option that is not None.
    """
    if name.startswith(KERAS_PREFIX):
        make = functools.partial(_keras_network, name[len(KERAS_PREFIX) :])
    else:
        require_choice("backbone", name, BACKBONES)
        make = BACKBONES[name]
    wanted = {"backbone_form": backbone_form, "width_multiplier": width_multiplier, "last": last}
    options = {key: value for key, value in wanted.items() if value is not None}
    for key, value in options.items():
        if key not in inspect.signature(make).parameters:
            raise invalid(f"{key} must not be set: {name} has no such choice.", **{key: value})
    return make(**options)
