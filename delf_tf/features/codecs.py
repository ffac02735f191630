"""Codecs by name, and trained codecs as files."""

from __future__ import annotations

import io
from pathlib import Path

from delf_tf import tensor_file
from delf_tf.artifacts import StrPath
from delf_tf.checks import invalid, require, require_choice
from delf_tf.features import manifest
from delf_tf.features.manifest import Manifest
from delf_tf.features.product_quantization import NAME_PATTERN, ProductQuantizer
from delf_tf.features.quantization import (
    Codec,
    Fields,
    Float16Codec,
    Float32Codec,
    Int8Codec,
    SignsCodec,
)

UNTRAINED = {codec.name: codec for codec in (Float32Codec, Float16Codec, Int8Codec, SignsCodec)}
_FILE_SUFFIX = ".safetensors"


def get_codec(codec: str | Path | Codec, dim: int) -> Codec:
    """Returns a codec for descriptors of width `dim`.

    Args:
      codec: "float32", "float16", "int8", "signs", the path of a codec's file, or a codec.
      dim: width D.

    Raises:
      InputError: unknown name, a name that needs training, or a codec of another width.
    """
    if isinstance(codec, Path) or (isinstance(codec, str) and codec.endswith(_FILE_SUFFIX)):
        codec = load_codec(codec)
    if not isinstance(codec, str):
        require(
            codec.dim == dim, "The codec must be of the width local_dim.", codec=codec.dim, dim=dim
        )
        return codec
    if NAME_PATTERN.fullmatch(codec):
        raise invalid(
            "A product quantizer must be trained before a store can use it.",
            hint="Give the file of a trained codec, or make a float32 store and re-code it.",
            local_codec=codec,
        )
    require_choice("local_codec", codec, UNTRAINED)
    return UNTRAINED[codec](dim)


def from_tensors(name: str, dim: int, tensors: Fields) -> Codec:
    """Returns the codec that was stored as `name` with `tensors`.

    Raises:
      InputError: unknown name or arrays that do not belong to it.
    """
    if NAME_PATTERN.fullmatch(name) and set(tensors) == {"codebook"}:
        codec = ProductQuantizer(name, tensors["codebook"])
        require(codec.dim == dim, "A codebook must be as wide as its codec says.", dim=dim)
        return codec
    require(
        name in UNTRAINED and not tensors,
        "A stored codec must be known and have the arrays that belong to it.",
        name=name,
        arrays=sorted(tensors),
    )
    return UNTRAINED[name](dim)


def to_bytes(codec: Codec) -> bytes:
    """Returns the content of the file that holds `codec`."""
    file = io.BytesIO()
    tensor_file.write(file, codec.tensors(), {"name": codec.name, "dim": codec.dim})
    return file.getvalue()


def load_codec(path: StrPath) -> Codec:
    """Reads a codec's file, such as a store's codec.safetensors.

    Raises:
      InputError: no such file, damaged, or arrays that are no codec's.
    """
    file = tensor_file.TensorFile(path)
    name, dim = file.metadata.get("name"), file.metadata.get("dim")
    require(
        isinstance(name, str) and isinstance(dim, int) and dim > 0,
        "A codec's file must name the codec and its width.",
        path=path,
    )
    with file.open() as descriptor:
        tensors = {one: file.read_checked(descriptor, one) for one in file.shapes}
    return from_tensors(name, dim, tensors)


def read_codec(folder: Path, content: Manifest) -> Codec | None:
    """Returns the codec of the store in `folder`, or None if it holds no local features.

    Raises:
      InputError: the codec's file is missing, damaged or another's.
    """
    if content.local_dim is None:
        return None
    if content.codec_sha256 is None:
        return from_tensors(str(content.local_codec), content.local_dim, {})
    path = folder / manifest.CODEC_NAME
    codec = load_codec(path)
    require(
        manifest.sha256(path.read_bytes()) == content.codec_sha256
        and (codec.name, codec.dim) == (content.local_codec, content.local_dim),
        "A store's codec must be the one its manifest was written for.",
        path=path,
    )
    return codec
