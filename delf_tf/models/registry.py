"""The table of models: names, and functions that build them with random weights."""

from __future__ import annotations

import fnmatch
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from delf_tf.checks import did_you_mean, invalid, require
from delf_tf.models.backbones.create import KERAS_PREFIX
from delf_tf.models.backbones.dinov2 import SIZES, DinoV2
from delf_tf.models.backbones.xfeat import XFeat
from delf_tf.models.compact import Compact
from delf_tf.models.compact_lite import CompactLite
from delf_tf.models.delf import Delf
from delf_tf.models.delg import Delg
from delf_tf.models.dolg import Dolg
from delf_tf.models.gem import Gem
from delf_tf.models.options import check_options
from delf_tf.models.retrieval_model import RetrievalModel
from delf_tf.models.superfeatures import SuperFeatures

# Name -> what makes the model. MobileNetV2 is the compact form of every family: its heads are half
# as wide as the papers' or less. ResNet-14 is for training from random weights in minutes.
MODELS: dict[str, Callable[..., RetrievalModel]] = {
    "gem_resnet20": functools.partial(Gem, "resnet20"),
    "gem_resnet50": functools.partial(Gem, "resnet50"),
    "gem_resnet101": functools.partial(Gem, "resnet101"),
    "gem_resnet152": functools.partial(Gem, "resnet152"),
    "gem_resnet50_v2": functools.partial(Gem, "resnet50_v2"),
    "gem_mobilenet_v2": functools.partial(Gem, "mobilenet_v2"),
    "delf_resnet50": functools.partial(Delf, "resnet50"),
    "delf_resnet101": functools.partial(Delf, "resnet101"),
    "delf_mobilenet_v2": functools.partial(Delf, "mobilenet_v2", attention_dim=256),
    "delg_resnet50": functools.partial(Delg, "resnet50"),
    "delg_resnet101": functools.partial(Delg, "resnet101"),
    "delg_mobilenet_v2": functools.partial(
        Delg, "mobilenet_v2", embedding_dim=512, attention_dim=256
    ),
    "dolg_resnet50": functools.partial(Dolg, "resnet50"),
    "dolg_resnet101": functools.partial(Dolg, "resnet101"),
    "dolg_mobilenet_v2": functools.partial(Dolg, "mobilenet_v2", fusion_dim=512),
    **{
        f"{family}_efficientnet_lite{variant}": functools.partial(
            make, f"efficientnet_lite{variant}", **options
        )
        for variant in (0, 1, 2)
        for family, make, options in (
            ("gem", Gem, {}),
            ("delg", Delg, {"embedding_dim": 512, "attention_dim": 256}),
            ("dolg", Dolg, {"fusion_dim": 512}),
        )
    },
    "delf_resnet14": functools.partial(Delf, "resnet14", attention_dim=128),
    "delg_resnet14": functools.partial(Delg, "resnet14", embedding_dim=256, attention_dim=128),
    "dolg_resnet14": functools.partial(Dolg, "resnet14", fusion_dim=256),
    "superfeatures_resnet14": functools.partial(
        SuperFeatures, "resnet14", num_superfeatures=64, superfeature_dim=128, local_dim=64
    ),
    "compact_efficientnet_lite0": functools.partial(CompactLite, "efficientnet_lite0"),
    "compact_efficientnet_lite2": functools.partial(CompactLite, "efficientnet_lite2"),
    "compact_mobilenet_v2": functools.partial(Compact, "mobilenet_v2"),
    "compact_resnet20": functools.partial(Compact, "resnet20", width_multiplier=0.5),
    "superfeatures_resnet50": functools.partial(SuperFeatures, "resnet50"),
    "superfeatures_resnet101": functools.partial(SuperFeatures, "resnet101"),
    "superfeatures_mobilenet_v2": functools.partial(
        SuperFeatures, "mobilenet_v2", num_superfeatures=128, superfeature_dim=256, local_dim=64
    ),
    "xfeat": XFeat,
    **{
        f"dinov2_vit{size}14{suffix}": functools.partial(
            DinoV2, dim=dim, depth=depth, num_registers=num_registers
        )
        for size, (dim, depth) in SIZES.items()
        for suffix, num_registers in (("", 0), ("_reg", 4))
    },
}

# Families over any tf.keras.applications network: "delg_keras:EfficientNetB0".
FAMILIES: dict[str, Callable[..., RetrievalModel]] = {
    "gem": Gem,
    "delf": Delf,
    "delg": Delg,
    "dolg": Dolg,
    "superfeatures": SuperFeatures,
}


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names that create_model knows and `pattern` (as a shell's) matches, sorted.

    Beside them, FAMILY_keras:NETWORK names any network of tf.keras.applications, and
    "my_package.module:function" any function of yours.
    """
    return sorted(fnmatch.filter(MODELS, pattern))


def build(name: str, seed: int | None = None, **kwargs: Any) -> RetrievalModel:
    """Makes a network with random weights.

    Args:
      name: one of list_models(), "FAMILY_keras:NETWORK", or "my_package.module:function" for a
        function of keyword arguments that returns a RetrievalModel.
      seed: of the weights, the same on every TensorFlow; None draws one.
      **kwargs: options of the model; None keeps the model's own default, which follows the paper.

    Raises:
      InputError: unknown name, an option that the model does not take or may not have.
    """
    model = construct(name, **kwargs)
    model.initialize(seed)
    return model


def construct(name: str, **kwargs: Any) -> RetrievalModel:
    """Returns the network that `build` makes, still without variables.

    Args:
      name: see `build`.
      **kwargs: see `build`.

    Raises:
      InputError: see `build`.
    """
    make = _find(name)
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    parameters = _parameters(make)
    if parameters is not None:
        check_options(name, parameters, kwargs)
    model = make(**kwargs)
    require(
        isinstance(model, RetrievalModel),
        "A model's function must return a delf_tf.models.retrieval_model.RetrievalModel.",
        name=name,
        returned=type(model).__name__,
    )
    model.record_options(name, {k: v for k, v in kwargs.items() if k != "preprocessing"})
    return model


def arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `build` that a model's `options`, or a weights file's, stand for."""
    return {
        "name": options["name"],
        **options["kwargs"],
        "preprocessing": options["preprocessing"],
    }


def _find(name: str) -> Callable[..., RetrievalModel]:
    """Returns what makes the model called `name`."""
    if name in MODELS:
        return MODELS[name]
    family, _, network = name.partition("_")
    if family in FAMILIES and network.startswith(KERAS_PREFIX):
        return functools.partial(FAMILIES[family], network)
    if ":" in name:
        return _import(name)
    raise invalid(
        "name must be a model's.",
        hint=f"{did_you_mean(name, MODELS)} Models: {', '.join(list_models())}; "
        "or my_package.module:function.".strip(),
        name=name,
    )


def _import(path: str) -> Callable[..., RetrievalModel]:
    module, _, attribute = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise invalid(
            "A dotted name must be module:function that can be imported.",
            hint=f"Python says: {error}.",
            name=path,
        ) from None
    makes_model = inspect.isfunction(found) or (
        inspect.isclass(found) and issubclass(found, RetrievalModel)
    )
    require(makes_model, "A dotted name must name a function or a RetrievalModel.", name=path)
    return found


def default_option(name: str, key: str) -> Any:
    """Returns what option `key` of a model is where it is not set; None without such an option."""
    parameter = (_parameters(_find(name)) or {}).get(key)
    return None if parameter is None else parameter.default


def _parameters(make: Callable[..., RetrievalModel]) -> dict[str, inspect.Parameter] | None:
    """Returns the options that a model's function takes; None if it takes any."""
    taken = dict(inspect.signature(make).parameters)
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values()):
        made = make.func if isinstance(make, functools.partial) else make
        if not inspect.isclass(made):
            return None
        taken |= inspect.signature(RetrievalModel).parameters
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {k: one for k, one in taken.items() if k != "backbone" and one.kind not in variadic}


RetrievalModel.rebuild = staticmethod(lambda options: build(**arguments(options)))
