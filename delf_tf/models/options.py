"""Checks the types and limits of model options before anything is built."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Mapping
from typing import Any

from delf_tf.checks import did_you_mean, invalid, require

# No descriptor is wider; a weights file from a stranger must not make one fill the memory.
MAX_COUNT = 65_536
_PREPROCESSING = ("channel_order", "mean", "std")
# Options whose default is None: what they are when they are set.
_TYPES_WITHOUT_DEFAULT = {
    "backbone_form": str,
    "width_multiplier": float,
    "preprocessing": Mapping,
}


def check_options(
    name: str, parameters: Mapping[str, inspect.Parameter], options: Mapping[str, Any]
) -> None:
    """Raises unless a model takes all `options`, and each has its type and a sane size.

    Args:
      name: of the model.
      parameters: what its function takes.
      options: values by name.

    Raises:
      InputError: an option that the model does not take (the nearest valid one is named), a value
        of another type than its default, a count below 0 or above MAX_COUNT, not a finite number,
        preprocessing with other keys than layers.Preprocessing has.
    """
    for key, value in options.items():
        if key not in parameters:
            raise invalid(
                f"{name} takes the options {', '.join(parameters)}.",
                hint=did_you_mean(key, parameters),
                **{key: value},
            )
        default = parameters[key].default
        kind = _TYPES_WITHOUT_DEFAULT.get(key) if default is None else type(default)
        _check_value(key, value, kind)


def _check_value(key: str, value: Any, kind: type | None) -> None:
    received = {key: value}
    if kind is bool:
        require(isinstance(value, bool), f"{key} must be True or False.", **received)
    elif kind is int:
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        must = f"{key} must be a whole number from 0 to {MAX_COUNT}."
        require(whole and 0 <= value <= MAX_COUNT, must, **received)
    elif kind is float:
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        require(number and math.isfinite(value), f"{key} must be a finite number.", **received)
    elif kind is str:
        require(isinstance(value, str), f"{key} must be a word.", **received)
    elif kind is Mapping:
        keys = set(value) if isinstance(value, Mapping) else {None}
        must = f"{key} must be a dict of {', '.join(_PREPROCESSING)}."
        require(keys <= set(_PREPROCESSING), must, **received)
