"""The original DELF's files: .datum, .delf, .delg_local, .delg_global.

Each is one serialised message of `protos/`. What is read from them and written again has the same
bytes. Files may come from anywhere: sizes and shapes are checked before they are believed.

Locations. The original's network writes the cell (i, j) of a map of stride t, found in an image
enlarged by s, at (y, x) = (t·i / s, t·j / s): not the cell's receptive-field centre in pixels of
the original image, which half-pixel-correct resizing puts at (t·i + c + ½) / s - ½, where c is the
centre of cell 0 in pixels of the enlarged image. `read_delf` and `write_delf` take locations as
they are in the file; `to_original_locations` and `from_original_locations` convert.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from google.protobuf import message as protobuf_message

from delf_tf import artifacts
from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, invalid, require
from delf_tf.protos import datum_pb2, feature_pb2
from delf_tf.types import LocalFeatures

# A byte of the file can become eight in memory.
MAX_FILE_BYTES = 64 << 20
# An empty feature takes two bytes in the file and hundreds in memory; the original writes 1000.
MAX_ITEMS = 200_000
_ITEM_TAG = 0x0A
_FLOATS = (np.float16, np.float32, np.float64)
_UNSIGNED = (np.uint8, np.uint16, np.uint32, np.uint64)

M = TypeVar("M", bound=protobuf_message.Message)


def read_datum(path: StrPath) -> np.ndarray:
    """Reads a .datum or .delg_global file.

    Returns:
      float32 or uint32, of the stored shape.

    Raises:
      InputError: no such file, truncated, another format, or a shape that its values do not fill.
    """
    return _read(path, datum_pb2.DatumProto, from_datum)


def write_datum(path: StrPath, array: np.ndarray) -> Path:
    """Writes an array as a DatumProto, atomically, and returns the path.

    Args:
      path: of the file.
      array: float16, float32 or float64, stored as float32; or uint8 to uint64, stored as uint32.

    Raises:
      InputError: another dtype (the original has no signed integers), or values above 32 bits.
    """
    return artifacts.write_bytes(path, to_datum(array).SerializeToString())


def read_delf(path: StrPath, *, dim: int | None = None) -> LocalFeatures:
    """Reads a .delf or .delg_local file; orientations, which the original leaves 0, are dropped.

    Args:
      path: of the file.
      dim: required width of the descriptors, or None for any. A file of no features has no
        width: it gets this one, or 0.

    Raises:
      InputError: no such file, truncated, descriptors of different widths, values that
        `LocalFeatures` refuses, or over `MAX_ITEMS` features or `MAX_FILE_BYTES`.
    """

    def convert(features: feature_pb2.DelfFeatures) -> LocalFeatures:
        local = from_delf(features, dim=dim)
        require(dim in (None, local.dim), f"Descriptors must have width {dim}.", width=local.dim)
        return local

    return _read(path, feature_pb2.DelfFeatures, convert, is_list=True)


def write_delf(path: StrPath, features: LocalFeatures) -> Path:
    """Writes local features as a .delf file, orientations 0, atomically, and returns the path."""
    return artifacts.write_bytes(path, to_delf(features).SerializeToString())


def to_datum(array: np.ndarray) -> datum_pb2.DatumProto:
    """Returns the message of an array; see `write_datum`."""
    array = np.asarray(array)
    datum = datum_pb2.DatumProto()
    datum.shape.dim.extend(array.shape)
    if array.dtype in _FLOATS:
        # A list of no values must be set too: it tells the type.
        datum.float_list.SetInParent()
        datum.float_list.value.extend(array.astype(np.float32).ravel().tolist())
    elif array.dtype in _UNSIGNED:
        largest = int(array.max(initial=0))
        require(largest < 1 << 32, "A datum's integers must fit 32 bits.", largest=largest)
        datum.uint32_list.SetInParent()
        datum.uint32_list.value.extend(array.ravel().tolist())
    else:
        raise invalid(
            "A datum must be of floats or of unsigned integers.",
            hint="Convert the array first, as with array.astype(np.float32).",
            array=array,
        )
    return datum


def from_datum(datum: datum_pb2.DatumProto) -> np.ndarray:
    """Returns the array of a message, float32 or uint32.

    Raises:
      InputError: no values, or a shape that they do not fill.
    """
    kind = datum.WhichOneof("kind_oneof")
    require(kind is not None, "A datum must hold a list of values.", shape=datum.shape.dim[:33])
    values = getattr(datum, kind).value
    shape = tuple(datum.shape.dim[:33])
    require(
        len(shape) <= 32 and min(shape, default=0) >= 0 and math.prod(shape) == len(values),
        "A datum's shape must hold exactly its values.",
        shape=shape,
        num_values=len(values),
    )
    dtype = np.float32 if kind == "float_list" else np.uint32
    return np.fromiter(values, dtype, len(values)).reshape(shape)


def to_delf(features: LocalFeatures) -> feature_pb2.DelfFeatures:
    """Returns the message of local features."""
    message = feature_pb2.DelfFeatures()
    rows = zip(
        features.locations.tolist(),
        features.descriptors,
        features.scales.tolist(),
        features.scores.tolist(),
    )
    for (y, x), descriptor, scale, score in rows:
        message.feature.add(
            descriptor=to_datum(descriptor), x=x, y=y, scale=scale, orientation=0.0, strength=score
        )
    return message


def from_delf(message: feature_pb2.DelfFeatures, *, dim: int | None = None) -> LocalFeatures:
    """Returns the local features of a message; without features, of width `dim` or 0.

    Raises:
      InputError: descriptors that are not vectors of one width, or as `LocalFeatures`.
    """
    if not message.feature:
        return LocalFeatures.empty(dim or 0)
    descriptors = [from_datum(feature.descriptor) for feature in message.feature]
    widths = {descriptor.shape for descriptor in descriptors}
    require(
        len(widths) == 1 and len(descriptors[0].shape) == 1,
        "Descriptors must be vectors of one width.",
        shapes=sorted(widths)[:4],
    )
    return LocalFeatures(
        locations=[(feature.y, feature.x) for feature in message.feature],
        descriptors=np.stack(descriptors),
        scores=[feature.strength for feature in message.feature],
        scales=[feature.scale for feature in message.feature],
    )


def to_original_locations(features: LocalFeatures) -> LocalFeatures:
    """Moves receptive-field centres to where the original would have written them.

    p + ½ - ½·scale, from the formulas at the head of this module; delf_tf's backbones pad
    symmetrically, so that the centre c of the map's cell (0, 0) is 0.

    Args:
      features: locations p at true centres, as everywhere in delf_tf.
    """
    return _shifted(features, 0.5 - 0.5 * features.scales)


def from_original_locations(
    features: LocalFeatures, *, cell_centre_px: float = 0.0
) -> LocalFeatures:
    """Moves the original's locations to receptive-field centres: `to_original_locations` undone.

    Args:
      features: with the original's locations.
      cell_centre_px: c; the original's own ResNet, with SAME padding, has 3 px for images of even
        size and 2 px for odd.
    """
    return _shifted(features, (cell_centre_px + 0.5) * features.scales - 0.5)


def _shifted(features: LocalFeatures, shift: np.ndarray) -> LocalFeatures:
    locations = features.locations + shift[:, None]
    return LocalFeatures(locations, features.descriptors, features.scores, features.scales)


def _items(raw: bytes) -> Iterator[int]:
    """Yields where each message of a list begins; parsing them takes far more than their bytes.

    A list is a sequence of field 1: its tag, a length in groups of seven bits, and the content.
    """
    at = 0
    while at < len(raw):
        yield at
        if raw[at] != _ITEM_TAG:
            raise protobuf_message.DecodeError("another field")
        at, shift, length = at + 1, 0, 0
        while at < len(raw) and shift < 64:
            length |= (raw[at] & 0x7F) << shift
            at, shift, ends = at + 1, shift + 7, raw[at] < 0x80
            if ends:
                break
        at += length


def _read(
    path: StrPath, kind: type[M], convert: Callable[[M], Any], *, is_list: bool = False
) -> Any:
    path, message = Path(path), kind()
    try:
        raw = artifacts.read_limited(path, "The file", MAX_FILE_BYTES)
        if is_list:
            num = sum(1 for _ in itertools.islice(_items(raw), MAX_ITEMS + 1))
            require(num <= MAX_ITEMS, f"The file must hold at most {MAX_ITEMS} items.")
        message.ParseFromString(raw)
        return convert(message)
    except OSError as error:
        raise invalid("The file must be readable.", reason=error.strerror, path=path) from None
    except protobuf_message.DecodeError:
        raise invalid(
            f"The file must be a whole {kind.DESCRIPTOR.name}.",
            hint="It is truncated or of another format; make or fetch it again.",
            path=path,
        ) from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
