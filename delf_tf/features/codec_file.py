"""A trained codec as a file: in a store, or on its own to be used for many stores."""

from __future__ import annotations

import io
from pathlib import Path

from delf_tf import artifacts
from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.features import manifest, tensor_file
from delf_tf.features.manifest import Manifest
from delf_tf.features.quantization import Codec, from_tensors


def to_bytes(codec: Codec) -> bytes:
    """Returns the content of the file that holds `codec`."""
    file = io.BytesIO()
    tensor_file.write(file, codec.tensors(), {"name": codec.name, "dim": codec.dim})
    return file.getvalue()


def save_codec(path: StrPath, codec: Codec) -> Path:
    """Writes a codec atomically and returns the path."""
    return artifacts.write_bytes(path, to_bytes(codec))


def load_codec(path: StrPath) -> Codec:
    """Reads a codec that `save_codec` wrote.

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
        and codec.dim == content.local_dim,
        "A store's codec must be the one its manifest was written for.",
        path=path,
    )
    return codec
