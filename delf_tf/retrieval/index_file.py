"""Index files: checked arrays, the images' ids and what made them, in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf import tensor_file
from delf_tf.artifacts import StrPath, atomic_write
from delf_tf.checks import invalid, require

_UNKNOWN = "0" * 32
_REBUILD = "Build the index again, or give the one that fits."


def write_index(
    path: StrPath,
    kind: str,
    *,
    fingerprint: str,
    ids: Sequence[str],
    arrays: Mapping[str, tensor_file.Tensor],
    parameters: Mapping[str, Any],
    contents: Mapping[str, str] | None = None,
) -> Path:
    """Writes an index atomically; equal content gives equal bytes.

    Args:
      path: the file.
      kind: what reads it, e.g. "asmk".
      fingerprint: of the parameters and of what was learned (codebook, quantiser).
      ids: image ids in row order.
      arrays: little-endian float32, float16, int64, uint32, uint16 or uint8 arrays of one axis or
        more, in pieces if they are large.
      parameters: JSON-able.
      contents: by id 32 hex digits of the image's file that was indexed, where that is known.

    Returns:
      `path`.
    """
    encoded = [one.encode("utf-8") for one in ids]
    tensors = {
        **arrays,
        "ids": np.frombuffer(b"".join(encoded), np.uint8),
        "id_ends": np.cumsum([len(one) for one in encoded], dtype=np.int64),
    }
    if contents:
        digests = bytes.fromhex("".join(contents.get(one, _UNKNOWN) for one in ids))
        tensors["contents"] = np.frombuffer(digests, np.uint8).reshape(-1, len(_UNKNOWN) // 2)
    metadata = {"kind": kind, "fingerprint": fingerprint, "parameters": dict(parameters)}
    with atomic_write(path) as file:
        tensor_file.write(file, tensors, metadata)
    return Path(path)


class IndexContent:
    """What `read_index` found.

    Attributes:
      kind: as written.
      fingerprint: as written.
      ids: image ids in row order, unique.
      contents: by id hex digits of the image's file that was indexed, where that is known.
      parameters: as written; the reader of the kind checks them.
      path: where it came from.
    """

    def __init__(self, file: tensor_file.TensorFile, arrays: dict[str, np.ndarray]):
        """Decodes the ids and keeps the other arrays for `array`."""
        self.path, self.kind = file.path, str(file.metadata.get("kind"))
        self.fingerprint = str(file.metadata.get("fingerprint"))
        parameters = file.metadata.get("parameters")
        self.parameters: dict[str, Any] = parameters if isinstance(parameters, dict) else {}
        self._arrays = arrays
        self.ids = self._decode_ids()
        self.contents = self._decode_contents()

    def __contains__(self, name: str) -> bool:
        """Tells whether the file has an array of this name."""
        return name in self._arrays

    def array(self, name: str, dtype: Any, shape: tuple[int | None, ...]) -> np.ndarray:
        """Returns an array of exactly this dtype and shape (None: any length).

        Raises:
          InputError: missing, or otherwise.
        """
        array = self._arrays.get(name)
        fits = (
            array is not None
            and array.dtype == np.dtype(dtype)
            and array.ndim == len(shape)
            and all(want in (None, got) for want, got in zip(shape, array.shape))
        )
        if array is None or not fits:
            raise invalid(
                f"The index must hold '{name}' of dtype {np.dtype(dtype)} and shape {shape}.",
                hint=_REBUILD,
                path=self.path,
                found=array,
            )
        return array

    def parameter(self, name: str, kind: type) -> Any:
        """Returns a parameter of type `kind`; a whole number may stand for a float.

        Raises:
          InputError: missing, or of another type.
        """
        value = self.parameters.get(name)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise invalid(
                f"The index must hold the parameter '{name}', a {kind.__name__}.",
                hint=_REBUILD,
                path=self.path,
                found=value,
            )
        return value

    def require_fingerprint(self, expected: str | None, computed: str) -> None:
        """Requires the stored fingerprint to be that of the content, and the expected one.

        Raises:
          InputError: the index was made by something else.
        """
        for wanted, what in ((computed, "its own parameters"), (expected, "what is asked for")):
            require(
                wanted is None or wanted == self.fingerprint,
                f"The index's fingerprint must be that of {what}.",
                hint=_REBUILD,
                path=self.path,
                fingerprint=self.fingerprint,
                expected=wanted,
            )

    def _decode_contents(self) -> dict[str, str]:
        if "contents" not in self:
            return {}
        rows = self.array("contents", np.uint8, (len(self.ids), len(_UNKNOWN) // 2))
        told = zip(self.ids, (row.tobytes().hex() for row in rows))
        return {one: digest for one, digest in told if digest != _UNKNOWN}

    def _decode_ids(self) -> tuple[str, ...]:
        ends = self.array("id_ends", np.int64, (None,))
        raw = self.array("ids", np.uint8, (None,)).tobytes()
        starts = np.concatenate([np.zeros(1, np.int64), ends])
        ordered = bool((np.diff(starts) >= 0).all()) and int(starts[-1]) == len(raw)
        require(ordered, "The index's ids must follow each other.", hint=_REBUILD, path=self.path)
        try:
            ids = tuple(raw[start:end].decode("utf-8") for start, end in zip(starts, ends))
        except UnicodeDecodeError:
            raise invalid("The index's ids must be UTF-8.", hint=_REBUILD, path=self.path) from None
        require(
            len(set(ids)) == len(ids),
            "The index's ids must be unique.",
            hint=_REBUILD,
            path=self.path,
        )
        return ids


def read_index(path: StrPath, kind: str) -> IndexContent:
    """Reads an index file without trusting it; its arrays' checksums are compared.

    Raises:
      InputError: no such file, another kind, cut short, or damaged.
    """
    file = _open(path, (kind,))
    with file.open() as descriptor:
        arrays = {name: file.read_checked(descriptor, name) for name in file.shapes}
    return IndexContent(file, arrays)


def map_index(path: StrPath, *kinds: str, check: bool = True) -> IndexContent:
    """As `read_index`, but the arrays stay in the file, which must then stay as it is.

    Args:
      path: the file.
      *kinds: that it may be of.
      check: go through the whole file once for its checksums, about a second per 2 GB.

    Raises:
      InputError: as `read_index`.
    """
    file = _open(path, kinds)
    if check:
        with file.open() as descriptor:
            for name in file.shapes:
                file.check(descriptor, name)
    return IndexContent(file, {name: file.map(name) for name in file.shapes})


def _open(path: StrPath, kinds: Sequence[str]) -> tensor_file.TensorFile:
    require(
        Path(path).is_file(),
        "The index must exist.",
        hint="Build it first: build_index.",
        path=path,
    )
    file = tensor_file.TensorFile(path)
    found = file.metadata.get("kind")
    require(
        found in kinds,
        f"The file must be an index of kind {' or '.join(kinds)}.",
        hint=_REBUILD,
        path=Path(path),
        kind=found,
    )
    return file
