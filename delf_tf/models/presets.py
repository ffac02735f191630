"""The table of models, and `create_model`, which makes one by name."""

from __future__ import annotations

import fnmatch
import functools
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from delf_tf.artifacts import StrPath
from delf_tf.checks import did_you_mean, invalid, require
from delf_tf.models import checkpoint
from delf_tf.models.backbones import KERAS_PREFIX
from delf_tf.models.compact import Compact
from delf_tf.models.delf import Delf
from delf_tf.models.delg import Delg
from delf_tf.models.dolg import Dolg
from delf_tf.models.gem import Gem
from delf_tf.models.options import check_options
from delf_tf.models.retrieval_model import FREE_OPTIONS, RetrievalModel
from delf_tf.models.superfeatures import SuperFeatures

# Name -> what makes the model, or the dotted path of it, imported when asked for. MobileNetV2 is
# the compact form of every family: its heads are half as wide as the papers' or less. ResNet-14 is
# for training from random weights in minutes.
MODELS: dict[str, Callable[..., RetrievalModel] | str] = {
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
    "delf_resnet14": functools.partial(Delf, "resnet14", attention_dim=128),
    "delg_resnet14": functools.partial(Delg, "resnet14", embedding_dim=256, attention_dim=128),
    "dolg_resnet14": functools.partial(Dolg, "resnet14", fusion_dim=256),
    "superfeatures_resnet14": functools.partial(
        SuperFeatures, "resnet14", num_superfeatures=64, superfeature_dim=128, local_dim=64
    ),
    "compact_mobilenet_v2": functools.partial(Compact, "mobilenet_v2"),
    "compact_resnet20": functools.partial(Compact, "resnet20", width_multiplier=0.5),
    "superfeatures_resnet50": functools.partial(SuperFeatures, "resnet50"),
    "superfeatures_resnet101": functools.partial(SuperFeatures, "resnet101"),
    "superfeatures_mobilenet_v2": functools.partial(
        SuperFeatures, "mobilenet_v2", num_superfeatures=128, superfeature_dim=256, local_dim=64
    ),
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


def create_model(
    name: str, weights: StrPath | None = None, seed: int | None = None, **kwargs: Any
) -> RetrievalModel:
    """Makes a network, with random weights or those of a file.

    Args:
      name: one of list_models(), "FAMILY_keras:NETWORK", or "my_package.module:function" for a
        function of keyword arguments that returns a RetrievalModel.
      weights: a weights file of ours; the name of one in the package (shipped.SHIPPED), or of a
        published checkpoint (published.PUBLISHED), downloaded and converted once. It brings the
        options and the preprocessing that it was made with; a keyword argument that contradicts
        them is refused. Or "imagenet": the backbone's weights from tf.keras.applications,
        downloaded once; the rest is drawn from `seed`.
      seed: of random weights, the same on every TensorFlow; None draws one.
      **kwargs: options of the model; None keeps the model's own default, which follows the paper.

    Returns:
      A built model: `model(images)` takes [B, H, W, 3] float32 RGB in 0..255 (see
      RetrievalModel.call).

    Raises:
      InputError: unknown name, an option that the model does not take or may not have, a weights
        file that is damaged, of another model or of other options, or a failed download.
    """
    make = _find(name)
    if weights is not None and not Path(weights).is_file():
        from delf_tf.models import published  # noqa: PLC0415 - it imports this module

        if str(weights) == published.IMAGENET:
            model = create_model(name, seed=seed, **published.imagenet_options(name, kwargs))
            published.load_imagenet(model)
            return model
        weights = published.fetch(str(weights))
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    stored = None if weights is None else checkpoint.read_options(_weights_path(weights))
    if stored is not None:
        kwargs = _agreed(name, kwargs, stored, weights)
    _check_options(name, make, kwargs)
    model = make(**kwargs)
    require(
        isinstance(model, RetrievalModel),
        "A model's function must return a delf_tf.models.retrieval_model.RetrievalModel.",
        name=name,
        returned=type(model).__name__,
    )
    model.record_options(name, {k: v for k, v in kwargs.items() if k != "preprocessing"})
    model.initialize(seed if stored is None else 0)
    if stored is not None:
        checkpoint.load_weights(model, _weights_path(weights))
    return model


def construct(name: str, **kwargs: Any) -> RetrievalModel:
    """Returns the network called `name` without variables: what create_model makes, not built.

    Args:
      name: see create_model.
      **kwargs: options that the model takes.
    """
    return _find(name)(**kwargs)


def _find(name: str) -> Callable[..., RetrievalModel]:
    """Returns what makes the model called `name`."""
    if name in MODELS:
        make = MODELS[name]
        return _import(make) if isinstance(make, str) else make
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
    is_function = inspect.isfunction(found) or inspect.isclass(found)
    require(is_function, "A dotted name must name a function or a class.", name=path)
    return found


def _parameters(make: Callable[..., RetrievalModel]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(make).parameters
    return {key: value for key, value in parameters.items() if key != "backbone"}


def _check_options(name: str, make: Callable[..., RetrievalModel], kwargs: dict[str, Any]) -> None:
    parameters = _parameters(make)
    if any(value.kind is inspect.Parameter.VAR_KEYWORD for value in parameters.values()):
        return
    check_options(name, parameters, kwargs)


def _weights_path(weights: StrPath) -> Path:
    path = Path(weights)
    require(
        path.is_file(),
        "weights must be a file that exists.",
        hint="Convert foreign weights with `delf_tf convert_weights`.",
        weights=weights,
    )
    return path


def _agreed(
    name: str, kwargs: dict[str, Any], stored: dict[str, Any], path: StrPath
) -> dict[str, Any]:
    """Returns the file's options, with those of `kwargs` that may differ."""
    require(
        stored["name"] == name,
        f"weights must be of a {name}.",
        hint=f"Use the model {stored['name']}, or other weights.",
        weights=path,
        model=stored["name"],
    )
    options = {**stored["kwargs"], "preprocessing": stored["preprocessing"]}
    for key, value in kwargs.items():
        if key in FREE_OPTIONS:
            continue
        known = options.get(key, _default(name, key))
        require(
            known == value,
            f"{key} must agree with the weights, which were made with {known!r}.",
            hint="Leave it out.",
            weights=path,
            **{key: value},
        )
    return {**options, **{key: kwargs[key] for key in FREE_OPTIONS if key in kwargs}}


def _default(name: str, key: str) -> Any:
    parameter = _parameters(_find(name)).get(key)
    return None if parameter is None else parameter.default
