"""How local features are kept in a store: exactly, or small with a bounded error.

A codec turns `LocalFeatures` into a few arrays ("fields") and back. Every codec but "float32" keeps
locations, scales and scores by `geometry`, 7 bytes a feature, and differs in the descriptors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from delf_tf.checks import invalid, require, require_choice
from delf_tf.types import LocalFeatures

Fields = dict[str, np.ndarray]


class Codec(Protocol):
    """What a store needs to know about a form of local features.

    Attributes:
      name: what the manifest calls it.
      dim: width D of the descriptors.
      fields: name -> (dtype, shape of a row) of each array that `encode` returns.
    """

    name: str
    dim: int
    fields: Mapping[str, tuple[np.dtype, tuple[int, ...]]]

    def encode(self, features: LocalFeatures) -> Fields:
        """Returns one array a field; their first axes may differ."""

    def decode(self, fields: Fields) -> LocalFeatures:
        """Returns float32 features; the inverse of `encode` within the codec's error."""

    def tensors(self) -> Fields:
        """Returns what was trained, to be stored once; empty for codecs that are not trained."""


class Float32Codec:
    """Keeps everything exactly: 4 D + 16 bytes a feature."""

    name = "float32"

    def __init__(self, dim: int):
        """Makes the codec for descriptors of width `dim`."""
        self.dim = dim
        real = np.dtype(np.float32)
        self.fields = {
            "descriptors": (real, (dim,)),
            "locations": (real, (2,)),
            "scales": (real, ()),
            "scores": (real, ()),
        }

    def encode(self, features: LocalFeatures) -> Fields:
        """Returns the arrays as they are, float16 descriptors made float32."""
        return {name: getattr(features, name).astype(np.float32) for name in self.fields}

    def decode(self, fields: Fields) -> LocalFeatures:
        """Returns the features."""
        return LocalFeatures(**fields)

    def tensors(self) -> Fields:
        """Returns nothing: there is nothing to train."""
        return {}


_UNTRAINED = {"float32": Float32Codec}


def get_codec(codec: str | Codec, dim: int) -> Codec:
    """Returns the codec called `codec` for descriptors of width `dim`, or `codec` if it is one.

    Raises:
      InputError: unknown name, a name that needs training, or a codec of another width.
    """
    if isinstance(codec, str):
        require_choice("local_codec", codec, _UNTRAINED)
        return _UNTRAINED[codec](dim)
    require(
        codec.dim == dim, "The codec must be of the store's local_dim.", codec=codec.dim, dim=dim
    )
    return codec


def from_tensors(name: str, dim: int, tensors: Fields) -> Codec:
    """Returns the codec that was stored as `name` with `tensors`.

    Raises:
      InputError: unknown name or arrays that do not belong to it.
    """
    if name not in _UNTRAINED:
        raise invalid("The store's codec must be known.", name=name, known=list(_UNTRAINED))
    return _UNTRAINED[name](dim)
