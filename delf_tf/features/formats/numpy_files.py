"""NumPy's own files: a folder of ID.npz, or one .npy of global descriptors beside its ids."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from delf_tf import artifacts, npz
from delf_tf.checks import as_array, invalid, require
from delf_tf.features import manifest
from delf_tf.features.blocks import ImageFeatures
from delf_tf.features.formats.exchange_index import (
    Source,
    file_stems,
    read_index,
    unit,
    write_index,
)
from delf_tf.features.store import FeatureStore
from delf_tf.progress import track
from delf_tf.types import LocalFeatures

MAX_UNPACKED_BYTES = 1 << 30
_LOCAL_FIELDS = ("locations", "descriptors", "scores", "scales")


def export_npz(store: FeatureStore, folder: Path) -> Path:
    """Writes ID.npz for each image: the fields of `LocalFeatures` and `global_descriptor`.

    Locations are (y, x), as in `LocalFeatures`.
    """
    stems = file_stems(store.ids())
    for one, stem in track(stems.items(), len(stems), "images", "Exporting"):
        features, arrays = store.read(one), {}
        if features.local is not None:
            arrays = {name: getattr(features.local, name) for name in _LOCAL_FIELDS}
        if features.global_descriptor is not None:
            arrays["global_descriptor"] = features.global_descriptor
        content = io.BytesIO()
        np.savez(content, **arrays)
        artifacts.write_bytes(folder / f"{stem}.npz", content.getvalue())
    write_index(folder, store, stems)
    return folder


def open_npz(folder: Path) -> Source:
    """Opens a folder of .npz files, written by `export_npz` or with the same arrays.

    Raises:
      InputError: no such folder, or an index that cannot be understood.
    """
    index = read_index(folder, (".npz",))
    stems = index["files"]

    def read(one: str) -> ImageFeatures:
        path, names = folder / f"{stems[one]}.npz", (*_LOCAL_FIELDS, "global_descriptor")
        arrays = npz.read_npz(path, (), names, max_bytes=MAX_UNPACKED_BYTES)
        held = [name for name in _LOCAL_FIELDS if name in arrays]
        require(
            len(held) in (0, len(_LOCAL_FIELDS)),
            f"Local features must have all of {', '.join(_LOCAL_FIELDS)}.",
            id=one,
            held=held,
        )
        local = LocalFeatures(*(arrays[name] for name in _LOCAL_FIELDS)) if held else None
        vector = arrays.get("global_descriptor")
        return ImageFeatures(None if vector is None else _vector(vector), local)

    return Source(tuple(stems), read, index.get("fingerprint"))


def export_npy(store: FeatureStore, path: Path) -> Path:
    """Writes the global descriptors, float32 [N, D], to `path` and their ids beside it.

    The ids are a JSON list in NAME.ids.json for NAME.npy. Blocks are streamed: memory does not
    grow with the store.
    """
    require(path.suffix == ".npy", "The file's name must end in .npy.", path=path)
    require(
        store.global_dim is not None, "The store must hold global descriptors.", path=store.path
    )
    ids = store.ids()
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(ids), store.global_dim)}
    artifacts.write_text(_ids_path(path), manifest.ids_text(ids))
    with artifacts.atomic_write(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _, vectors in store.global_blocks():
            file.write(vectors.tobytes())
    return path


def open_npy(path: Path) -> Source:
    """Opens global descriptors with their ids, as `export_npy` writes them; memory-mapped.

    Raises:
      InputError: no such files, not a float matrix, or another number of ids than rows.
    """
    try:
        # A shape whose size overflows must not wrap around to a small one.
        with np.errstate(over="raise"):
            vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        ids = json.loads(_ids_path(path).read_bytes())
    except Exception as error:  # What damaged bytes do to NumPy is open-ended.
        hint = "It takes NAME.npy and NAME.ids.json, a JSON list of the rows' ids."
        raise invalid(
            "The file must be a matrix of floats.", hint=hint, path=path, reason=str(error)
        ) from None
    require(
        isinstance(vectors, np.ndarray) and vectors.ndim == 2 and vectors.dtype.kind == "f",
        "The file must be a matrix of floats.",
        path=path,
    )
    require(
        isinstance(ids, list) and len(ids) == len(vectors),
        "There must be one id a row.",
        path=path,
        rows=len(vectors),
    )
    manifest.ids_text(ids)
    rows = {one: row for row, one in enumerate(ids)}
    return Source(tuple(ids), lambda one: ImageFeatures(_vector(vectors[rows[one]])))


def _vector(values: np.ndarray) -> np.ndarray:
    return unit(as_array("global_descriptor", values, ("D",)))


def _ids_path(path: Path) -> Path:
    return path.with_suffix(".ids.json")
