"""Codecs of local features: exact, or small with a stated error.

A codec turns `LocalFeatures` into a few arrays ("fields") and back. Every codec but "float32" keeps
all but the descriptors by `geometry_codec`, in 7 bytes a feature:

| name | bytes of a descriptor | error |
|---|---|---|
| float32 | 4 D | none; locations, scales and scores take 16 bytes |
| float16 | 2 D | 2^-11 of each component |
| int8 | D + 4 | 1/254 of the vector's largest component |
| signs | D / 8 | all but the components' signs, which come back as a vector of length 1 |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from delf_tf.checks import require, require_choice
from delf_tf.features import geometry_codec
from delf_tf.features.geometry_codec import Fields, decode_geometry, encode_geometry
from delf_tf.types import LocalFeatures

FieldTypes = Mapping[str, tuple[np.dtype, tuple[int, ...]]]


class Codec(Protocol):
    """What a store needs to know about a form of local features.

    Attributes:
      name: what the manifest calls it.
      dim: width D of the descriptors.
      fields: name -> (dtype, shape of a row) of each array that `encode` returns.
    """

    name: str
    dim: int
    fields: FieldTypes

    def encode(self, features: LocalFeatures) -> Fields:
        """Returns one array a field; their first axes may differ."""

    def decode(self, fields: Fields) -> LocalFeatures:
        """Returns float32 features; the inverse of `encode` within the codec's error.

        Raises:
          InputError: fields that do not belong together.
        """


class Float32Codec:
    """Keeps everything exactly: 4 D + 16 bytes a feature."""

    name = "float32"

    def __init__(self, dim: int):
        """Makes the codec for descriptors of width `dim`."""
        self.dim = dim
        real = np.dtype(np.float32)
        self.fields: FieldTypes = {
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


class Float16Codec:
    """Keeps descriptors as float16: 2 D + 7 bytes a feature."""

    name = "float16"

    def __init__(self, dim: int):
        """Makes the codec for descriptors of width `dim`."""
        self.dim = dim
        half = {"descriptors": (np.dtype(np.float16), (dim,))}
        self.fields: FieldTypes = {**geometry_codec.FIELDS, **half}

    def encode(self, features: LocalFeatures) -> Fields:
        """Returns the fields.

        Raises:
          InputError: descriptor components above 65504, which float16 cannot hold.
        """
        largest = float(np.abs(features.descriptors).max(initial=0))
        limit = float(np.finfo(np.float16).max)
        require(largest <= limit, f"float16 descriptors must stay within {limit}.", largest=largest)
        return {
            **encode_geometry(features),
            "descriptors": features.descriptors.astype(np.float16),
        }

    def decode(self, fields: Fields) -> LocalFeatures:
        """Returns the features."""
        return decode_geometry(fields, fields["descriptors"].astype(np.float32))


class Int8Codec:
    """Keeps descriptors as 8-bit integers with one float32 step a vector: D + 11 bytes a feature.

    The step is the vector's largest absolute component divided by 127, so zero stays zero, nothing
    is clipped and a component is off by at most half a step.
    """

    name = "int8"

    def __init__(self, dim: int):
        """Makes the codec for descriptors of width `dim`."""
        self.dim = dim
        self.fields: FieldTypes = {
            **geometry_codec.FIELDS,
            "descriptors": (np.dtype(np.int8), (dim,)),
            "descriptor_steps": (np.dtype(np.float32), (1,)),
        }

    def encode(self, features: LocalFeatures) -> Fields:
        """Returns the fields."""
        descriptors = features.descriptors.astype(np.float32)
        steps = np.abs(descriptors).max(axis=1, initial=0, keepdims=True) / np.float32(127)
        codes = np.rint(descriptors / np.where(steps > 0, steps, 1))
        return {
            **encode_geometry(features),
            # A step that is subnormal is too coarse to divide by exactly.
            "descriptors": np.clip(codes, -127, 127).astype(np.int8),
            "descriptor_steps": steps,
        }

    def decode(self, fields: Fields) -> LocalFeatures:
        """Returns the features.

        Raises:
          InputError: fields that do not belong together.
        """
        codes, steps = fields["descriptors"], fields["descriptor_steps"]
        require(
            len(codes) == len(steps),
            "Each 8-bit descriptor must have one step.",
            descriptors=len(codes),
            steps=len(steps),
        )
        return decode_geometry(fields, codes * steps)


class SignsCodec:
    """Keeps the signs of the descriptors' components: D / 8 + 7 bytes a feature."""

    name = "signs"

    def __init__(self, dim: int):
        """Makes the codec for descriptors of width `dim`."""
        self.dim = dim
        signs = {"signs": (np.dtype(np.uint8), (-(-dim // 8),))}
        self.fields: FieldTypes = {**geometry_codec.FIELDS, **signs}

    def encode(self, features: LocalFeatures) -> Fields:
        """Returns the fields."""
        return {
            **encode_geometry(features),
            "signs": np.packbits(features.descriptors > 0, axis=1),
        }

    def decode(self, fields: Fields) -> LocalFeatures:
        """Returns the features; components are 1 / √D or -1 / √D."""
        positive = np.unpackbits(fields["signs"], axis=1, count=self.dim).astype(bool)
        size = np.float32(self.dim**-0.5)
        return decode_geometry(fields, np.where(positive, size, -size))


CODECS = {codec.name: codec for codec in (Float32Codec, Float16Codec, Int8Codec, SignsCodec)}


def get_codec(name: str, dim: int) -> Codec:
    """Returns the codec called `name` for descriptors of width `dim`.

    Raises:
      InputError: unknown name, or that of a product quantizer, which earlier versions had.
    """
    quantized = re.fullmatch(r"pq\d+x\d+", name) or name.endswith(".safetensors")
    require(
        not quantized,
        "Product-quantized local features are no longer supported.",
        hint='Extract the images again, with a local_codec of "float16" or "int8".',
        local_codec=name,
    )
    require_choice("local_codec", name, CODECS)
    return CODECS[name](dim)
