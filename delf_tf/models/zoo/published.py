"""Published weights: addresses, licences and published results; and ImageNet weights of Keras."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from delf_tf.checks import did_you_mean, invalid
from delf_tf.models.backbones.keras_networks import KerasNetwork
from delf_tf.models.backbones.resnet import ResNet
from delf_tf.models.retrieval_model import RetrievalModel
from delf_tf.models.variables import variables_by_path
from delf_tf.models.zoo import conversion, foreign_files, shipped
from delf_tf.models.zoo.download import DownloadError, cache_dir, download
from delf_tf.models.zoo.foreign_names import KERAS_APPLICATIONS_RESNET

IMAGENET = "imagenet"
_GCS = "https://storage.googleapis.com/delf"
_FIRE = "http://download.europe.naverlabs.com/ComputerVision/FIRe"
_TORCHVISION = "https://download.pytorch.org/models"
_DELF_SCALES = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
_DOLG_SCALES = (0.3535, 0.5, 0.7071, 1.0, 1.4142)
_FIRE_SCALES = (2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25)


class Published(NamedTuple):
    """One published checkpoint.

    Attributes:
      url: of the file, or of the page that a browser must fetch it from.
      source: a key of sources.SOURCES, or "saved_model" for a graph that runs as it is.
      model: what it becomes, a name of create_model; empty for a SavedModel.
      licence: of the weights; "unstated" where the publisher says nothing.
      trained_on: the training images.
      scales: of the image pyramid at inference.
      published_map: "dataset-protocol" -> mAP in percent, as published.
      sha256: of the file; empty where none is published.
      is_direct: whether `url` is the file itself.
      note: what to know before comparing.
    """

    url: str
    source: str
    model: str
    licence: str
    trained_on: str
    scales: tuple[float, ...]
    published_map: Mapping[str, float]
    sha256: str = ""
    is_direct: bool = True
    note: str = ""


def _saved_model(
    file: str, trained_on: str, published_map: Mapping[str, float], note: str = ""
) -> Published:
    return Published(
        url=f"{_GCS}/{file}.tar.gz",
        source="saved_model",
        model="",
        licence="Apache-2.0",
        trained_on=trained_on,
        scales=_DELF_SCALES,
        published_map=published_map,
        note=note,
    )


def _dolg(page: str, depth: int, published_map: Mapping[str, float]) -> Published:
    return Published(
        url=f"https://pan.baidu.com/s/{page}",
        source="dolg_pytorch",
        model=f"dolg_resnet{depth}",
        licence="unstated",
        trained_on="GLDv2-clean",
        scales=_DOLG_SCALES,
        published_map=published_map,
        is_direct=False,
        note="With query cropping; without the multi-atrous module. Input BGR.",
    )


def _torchvision(file: str, depth: int) -> Published:
    return Published(
        url=f"{_TORCHVISION}/{file}",
        source="torchvision_resnet",
        model=f"gem_resnet{depth}",
        licence="BSD-3-Clause",
        trained_on="ImageNet-1k",
        scales=(1.0,),
        published_map={},
        note="A classifier, nothing trained for retrieval.",
    )


PUBLISHED: dict[str, Published] = {
    "dolg_resnet50_gldv2clean": _dolg(
        "13Bt1v_sMSny8pGRIM0K8xQ",
        50,
        {"roxford-M": 81.20, "rparis-M": 90.07, "roxford-H": 62.55, "rparis-H": 79.20},
    ),
    "dolg_resnet101_gldv2clean": _dolg(
        "1_osEyC53txA-_1cbadBzLQ",
        101,
        {"roxford-M": 82.37, "rparis-M": 90.97, "roxford-H": 64.93, "rparis-H": 81.71},
    ),
    "superfeatures_resnet50_sfm120k": Published(
        url=f"{_FIRE}/official/fire.pth",
        source="superfeatures_pytorch",
        model="superfeatures_resnet50",
        licence="CC BY-NC-SA 4.0: non-commercial use only",
        trained_on="SfM-120k",
        scales=_FIRE_SCALES,
        published_map={"roxford-M": 82.6, "roxford-H": 62.2, "rparis-M": 85.2, "rparis-H": 70.0},
        note="By ASMK*, 1000 super-features an image, max side 1024.",
    ),
    "resnet50_torchvision": _torchvision("resnet50-0676ba61.pth", 50),
    "resnet101_torchvision": _torchvision("resnet101-63fe2227.pth", 101),
    "delf_gld": _saved_model(
        "delf_gld_20190411",
        "Google-Landmarks v1",
        {"roxford-M": 73.3, "roxford-H": 47.61},
        "The figures are those of R-ASMK* with detected regions.",
    ),
    "delg_resnet50_gld": _saved_model(
        "r50delg_gld_20200814",
        "Google-Landmarks v1",
        {"roxford-M": 69.71, "roxford-H": 45.11},
        "Global descriptor alone; with geometric verification 75.42 and 53.72.",
    ),
    "delg_resnet101_gld": _saved_model(
        "r101delg_gld_20200814",
        "Google-Landmarks v1",
        {"roxford-M": 73.2},
        "Global descriptor alone.",
    ),
    "delg_resnet50_gldv2clean": _saved_model(
        "r50delg_gldv2clean_20200914",
        "GLDv2-clean",
        {"roxford-M": 73.6, "rparis-M": 85.7, "roxford-H": 51.0, "rparis-H": 71.5},
        "Global descriptor alone; re-ranked 78.3, 85.7, 57.9 and 71.0.",
    ),
    "delg_resnet101_gldv2clean": _saved_model(
        "r101delg_gldv2clean_20200914",
        "GLDv2-clean",
        {"roxford-M": 76.3, "rparis-M": 86.6, "roxford-H": 55.6, "rparis-H": 72.4},
        "Global descriptor alone; re-ranked 81.2, 87.2, 64.0 and 72.8.",
    ),
    "arcface_resnet101_gldv2clean": _saved_model(
        "rn101_af_gldv2clean_20200814",
        "GLDv2-clean",
        {"roxford-M": 76.23, "roxford-H": 55.54},
        "Global descriptor of three scales.",
    ),
}


def fetch(name: str) -> Path:
    """Downloads a published checkpoint to download.cache_dir() and converts it there, once.

    Args:
      name: a key of PUBLISHED that has a source to convert, or of shipped.SHIPPED, which needs no
        network.

    Returns:
      A weights file of ours, for create_model(PUBLISHED[name].model, weights=...).

    Raises:
      InputError: an unknown name, a SavedModel, a file that only a browser can fetch, no network,
        a damaged file, or one that needs PyTorch to be read.
    """
    if name in shipped.SHIPPED:
        return shipped.shipped_weights(name)
    if name not in PUBLISHED:
        known = [*shipped.SHIPPED, IMAGENET, *PUBLISHED]
        raise invalid(
            f"weights must be a file that exists, or one of {', '.join(known)}.",
            hint=f"{did_you_mean(name, known)} Convert foreign weights with "
            "`delf_tf convert_weights`.".strip(),
            weights=name,
        )
    record = PUBLISHED[name]
    converted = cache_dir() / f"{name}.npz"
    if converted.is_file():
        return converted
    if record.source == "saved_model":
        raise invalid(
            f"{name} is a SavedModel, which is not converted but run as it is.",
            hint=f"Fetch and unpack {record.url}.",
            name=name,
        )
    if not record.is_direct:
        raise invalid(
            f"{name} must be fetched by hand from {record.url}.",
            hint=f"Then: delf_tf convert_weights --source={record.source} --input=FILE "
            f"--output={converted}",
            name=name,
        )
    foreign = download(record.url, cache_dir() / Path(record.url).name, sha256=record.sha256)
    arrays = foreign_files.read_arrays(foreign)
    conversion.convert_file(record.source, arrays, foreign, converted)
    return converted


def imagenet_options(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `kwargs` with what Keras' ImageNet weights need of model `name` unless it is set."""
    if "_resnet" in name and not name.endswith("_v2"):
        return {"backbone_form": "keras_applications", **kwargs}
    return dict(kwargs)


def load_imagenet(model: RetrievalModel) -> None:
    """Sets a model's whole backbone to the ImageNet weights of tf.keras.applications.

    Keras downloads them to its own cache (~/.keras/models) and checks them. The heads keep their
    values.

    Args:
      model: built, its backbone a ResNet of the form "keras_applications" or a Keras network.

    Raises:
      InputError: a backbone that Keras has no weights for.
      DownloadError: no network.
    """
    name = _network_name(model)
    make = getattr(tf.keras.applications, name)
    try:
        network = make(include_top=False, weights=IMAGENET)
    except Exception as error:  # Keras raises bare Exceptions about downloads.
        raise invalid(
            f"ImageNet weights of {name} must be in Keras' cache or on the network.",
            hint="Without a network, fetch the file elsewhere and put it in ~/.keras/models, or "
            "convert any weights with `delf_tf convert_weights`.",
            error=DownloadError,
            reason=" ".join(str(error).split())[:300],
        ) from None
    transfer(model, network)


def transfer(model: RetrievalModel, network: tf.keras.Model) -> None:
    """Sets a model's backbone to the weights of a Keras network without its top.

    Args:
      model: see `load_imagenet`.
      network: of tf.keras.applications, the same architecture.

    Raises:
      InputError: an array is missing or of another shape; nothing is set.
    """
    backbone = model.backbone
    if isinstance(backbone, KerasNetwork):
        backbone.network.set_weights(network.get_weights())
        return
    arrays = {
        f"{layer.name}.{weight.name.split('/')[-1].split(':')[0]}": np.asarray(weight)
        for layer in network.layers
        for weight in layer.weights
    }
    variables = {
        path: variable
        for path, variable in variables_by_path(model).items()
        if path.startswith("backbone.")
    }
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    if backbone.last != "stride32":  # Super-features end before stage 5.
        arrays = {name: a for name, a in arrays.items() if not name.startswith("conv5_")}
    values = conversion.translate(KERAS_APPLICATIONS_RESNET, arrays, shapes)
    for path, variable in variables.items():
        variable.assign(values[path])


def _network_name(model: RetrievalModel) -> str:
    backbone = model.backbone
    if isinstance(backbone, KerasNetwork):
        return backbone.network_name
    is_theirs = isinstance(backbone, ResNet) and backbone.form == "keras_applications"
    if is_theirs and backbone.width_multiplier == 1:
        return f"ResNet{backbone.depth}"
    raise invalid(
        'weights="imagenet" needs a backbone of tf.keras.applications: a ResNet with '
        'backbone_form="keras_applications", or a network by name such as '
        '"delg_keras:MobileNetV2".',
        hint="For others convert published weights with `delf_tf convert_weights`.",
        backbone=type(backbone).__name__,
        form=getattr(backbone, "form", None),
    )
