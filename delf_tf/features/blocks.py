"""A block: the features of consecutive images in one file of the store, written whole.

Arrays of the file: `global` [B, D], zeros for an image that failed; for each field of the codec
`local.FIELD`, the images' arrays one after the other; `local.offsets` [F, B + 1], where each image
begins in each field (fields in alphabetical order); `crc32` [2, B], the checksum of each image's
row of `global` and of its local fields, so that one image is checked without reading the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from delf_tf import tensor_file
from delf_tf.checks import as_array, invalid, require
from delf_tf.features.manifest import Manifest
from delf_tf.features.quantization import Fields
from delf_tf.features.sources import Source, parse
from delf_tf.types import LocalFeatures


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What is stored of one image.

    Attributes:
      global_descriptor: float32 [D] of L2 norm 1 (to 1e-3), or None.
      local: local features, or None.
    """

    global_descriptor: np.ndarray | None = None
    local: LocalFeatures | None = None

    def __post_init__(self) -> None:
        if self.global_descriptor is None:
            return
        vector = as_array("ImageFeatures.global_descriptor", self.global_descriptor, ("D",))
        object.__setattr__(self, "global_descriptor", vector)
        norm = float(np.linalg.norm(vector))
        require(
            abs(norm - 1) <= 1e-3,
            "ImageFeatures.global_descriptor must have L2 norm 1.",
            hint="An image that gives a zero vector is a failure.",
            norm=norm,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One image as it lies in a block: its global row and its encoded local fields."""

    vector: np.ndarray | None
    fields: Fields | None


def encode_row(name: str, features: ImageFeatures, manifest: Manifest) -> Row:
    """Returns the row of one image.

    Raises:
      InputError: features that the store does not hold, or lacks, or of another width.
    """
    vector, local = features.global_descriptor, features.local
    _require_width(name, "global_dim", None if vector is None else len(vector), manifest)
    _require_width(name, "local_dim", None if local is None else local.dim, manifest)
    codec = manifest.codec
    return Row(vector, None if codec is None or local is None else codec.encode(local))


def write_block(
    file: BinaryIO,
    ids: Sequence[str],
    rows: Sequence[Row | None],
    *,
    failures: Mapping[str, str],
    manifest: Manifest,
    sources: Mapping[str, Source] | None = None,
) -> None:
    """Writes a block to an open file.

    Args:
      file: binary, at its start.
      ids: B image ids.
      rows: B rows, None for the images in `failures`.
      failures: id -> why it has no features.
      manifest: of the store.
      sources: id -> which file the features were made from, where that is known.
    """
    codec, checks = manifest.codec, np.zeros((2, len(ids)), np.uint32)
    tensors = {"crc32": checks}
    if manifest.global_dim is not None:
        zeros = np.zeros(manifest.global_dim, np.float32)
        vectors = [zeros if row is None else row.vector for row in rows]
        tensors["global"] = np.stack(vectors)
        checks[0] = [tensor_file.crc32(vector) for vector in vectors]
    if codec is not None:
        empty = {
            name: np.zeros((0, *shape), dtype) for name, (dtype, shape) in codec.fields.items()
        }
        fields = [empty if row is None else row.fields for row in rows]
        names = sorted(codec.fields)
        lengths = [[len(one[name]) for one in fields] for name in names]
        tensors["local.offsets"] = np.cumsum(
            np.pad(lengths, ((0, 0), (1, 0))), axis=1, dtype=np.int64
        )
        for name in names:
            tensors[f"local.{name}"] = np.concatenate([one[name] for one in fields])
        checks[1] = [tensor_file.crc32(*(one[name] for name in names)) for one in fields]
    metadata = {"fingerprint": manifest.fingerprint, "ids": list(ids), "failures": dict(failures)}
    if sources:
        metadata["sources"] = {one: str(source) for one, source in sources.items()}
    tensor_file.write(file, tensors, metadata)


class Block:
    """A block's file, opened for reading; reads are thread-safe.

    Attributes:
      ids: of its images, in order.
      failures: id -> why it has no features.
    """

    def __init__(self, path: Path, ids: Sequence[str], manifest: Manifest):
        """Reads the header and the index.

        Args:
          path: the file.
          ids: of its images, as the store's list has them.
          manifest: of the store.

        Raises:
          InputError: truncated or damaged, or of another store.
        """
        self._file = tensor_file.TensorFile(path)
        metadata = self._file.metadata
        same = metadata.get("fingerprint") == manifest.fingerprint
        # Not kept: the store has the list.
        if metadata.pop("ids", None) != list(ids) or not same:
            raise invalid(
                f"{path.name} must belong to the store it lies in.",
                hint="Delete it and run the extraction again.",
                path=path,
            )
        self.failures = _failures(metadata.get("failures"), ids, path)
        self.ids, self._manifest, self._codec = ids, manifest, manifest.codec
        self._names = sorted(self._codec.fields) if self._codec is not None else []
        self._require_arrays()
        with self._file.open() as descriptor:
            self._checks = self._file.read_checked(descriptor, "crc32")
            if self._codec is not None:
                self._offsets = self._file.read_checked(descriptor, "local.offsets")
                self._require_offsets()

    def sources(self) -> dict[str, Source]:
        """Returns which files the features were made from, by id, where that is known.

        Raises:
          InputError: what stands there is not that.
        """
        return _sources(self._file.metadata.get("sources", {}), self.ids, self._file.path)

    def read_vector(self, row: int) -> np.ndarray:
        """Returns the global descriptor, float32 [D], of an image."""
        with self._file.open() as descriptor:
            vector = self._file.read(descriptor, "global", row, row + 1)[0]
        self._check(0, row, vector)
        return vector

    def read_vectors(self) -> np.ndarray:
        """Returns the global descriptors of all B images, float32 [B, D]; zeros for failures."""
        with self._file.open() as descriptor:
            vectors = self._file.read(descriptor, "global")
        for row, vector in enumerate(vectors):
            self._check(0, row, vector)
        return vectors

    def read_fields(self, row: int) -> Fields:
        """Returns the encoded local features of an image."""
        fields = {}
        with self._file.open() as descriptor:
            for name, offsets in zip(self._names, self._offsets):
                start, stop = int(offsets[row]), int(offsets[row + 1])
                fields[name] = self._file.read(descriptor, f"local.{name}", start, stop)
        self._check(1, row, *fields.values())
        return fields

    def read_row(self, row: int) -> Row:
        """Returns all that is stored of an image, encoded."""
        vector = None if self._manifest.global_dim is None else self.read_vector(row)
        return Row(vector, None if self._codec is None else self.read_fields(row))

    def num_bytes(self) -> tuple[int, int]:
        """Returns the bytes of the global descriptors and of the local features, index included."""
        sizes = {
            name: int(np.prod(shape)) * self._file.dtypes[name].itemsize
            for name, shape in self._file.shapes.items()
        }
        local = sum(size for name, size in sizes.items() if name.startswith("local."))
        return sizes.get("global", 0), local

    def verify(self) -> None:
        """Checks every byte.

        Raises:
          InputError: a checksum differs.
        """
        with self._file.open() as descriptor:
            for name in self._file.shapes:
                self._file.read_checked(descriptor, name)

    def _require_arrays(self) -> None:
        num, dim = len(self.ids), self._manifest.global_dim
        expected = {"crc32": (np.uint32, (2, num))}
        if dim is not None:
            expected["global"] = (np.float32, (num, dim))
        if self._codec is not None:
            expected["local.offsets"] = (np.int64, (len(self._names), num + 1))
        for name in self._names:
            dtype, shape = self._codec.fields[name]
            length = self._file.shapes.get(f"local.{name}", (0,))[0]
            expected[f"local.{name}"] = (dtype, (length, *shape))
        found = {
            name: (self._file.dtypes[name], shape) for name, shape in self._file.shapes.items()
        }
        require(
            found == expected,
            f"{self._file.path.name} must hold the arrays that the store's manifest names.",
            path=self._file.path,
            arrays=sorted(found),
        )

    def _require_offsets(self) -> None:
        ends = [self._file.shapes[f"local.{name}"][0] for name in self._names]
        inside = (self._offsets[:, 0] == 0).all() and (self._offsets[:, -1] == ends).all()
        require(
            bool(inside and (np.diff(self._offsets, axis=1) >= 0).all()),
            f"{self._file.path.name} must have offsets that rise from 0 to each field's length.",
            path=self._file.path,
        )

    def _check(self, kind: int, row: int, *arrays: np.ndarray) -> None:
        if tensor_file.crc32(*arrays) != self._checks[kind, row]:
            raise invalid(
                "The features of an image must be as they were written (their checksum differs).",
                hint="Run the extraction again with the same arguments: it repairs damaged blocks.",
                path=self._file.path,
                id=self.ids[row],
            )


def _failures(failures: object, ids: Sequence[str], path: Path) -> dict[str, str]:
    known = isinstance(failures, dict) and set(failures) <= set(ids)
    require(known, f"{path.name} must list failures of its own images.", path=path)
    return {name: str(reason) for name, reason in failures.items()}


def _sources(sources: object, ids: Sequence[str], path: Path) -> dict[str, Source]:
    try:
        found = {name: parse(text) for name, text in sources.items()}
    except (AttributeError, ValueError):
        found = {"": None}
    require(set(found) <= set(ids), f"{path.name} must name files of its own images.", path=path)
    return found


def _require_width(name: str, what: str, got: int | None, manifest: Manifest) -> None:
    want = getattr(manifest, what)
    require(got == want, f"Features must have the store's {what}, {want}.", id=name, **{what: got})
