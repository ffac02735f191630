"""Global descriptors as one .npy beside their ids, or as Parquet for vector databases."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf import artifacts
from delf_tf.checks import as_array, invalid, require
from delf_tf.features import manifest
from delf_tf.features.blocks import ImageFeatures
from delf_tf.features.formats.exchange_index import Source, unit
from delf_tf.features.store import FeatureStore

# Rows of a Parquet file that are read at once; what describes such a group stays in memory.
_GROUP_ROWS = 1 << 13


def export_npy(store: FeatureStore, path: Path) -> Path:
    """Writes the global descriptors, float32 [N, D], to `path` and their ids beside it.

    The ids are a JSON list in NAME.ids.json for NAME.npy. Blocks are streamed: memory does not
    grow with the store.
    """
    require(path.suffix == ".npy", "The file's name must end in .npy.", path=path)
    _require_global(store)
    ids = store.ids()
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(ids), store.global_dim)}
    artifacts.write_text(_ids_path(path), manifest.ids_text(ids))
    with artifacts.atomic_write(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _, vectors in store.global_blocks():
            file.write(vectors.tobytes())
    return path


def export_parquet(store: FeatureStore, path: Path) -> Path:
    """Writes ids and global descriptors as one Parquet file, as vector databases load them.

    Its columns are row (int64), id (string) and vector (list of float), L2-normalised, so that
    inner products compare them; the fingerprint is the file's metadata. Blocks are streamed:
    beside the store's ids memory does not grow.
    """
    arrow = _import_pyarrow()
    _require_global(store)
    columns = {
        "row": arrow.int64(),
        "id": arrow.string(),
        "vector": arrow.list_(arrow.float32()),
    }
    schema = arrow.schema(
        [arrow.field(name, kind, nullable=False) for name, kind in columns.items()],
        metadata={"delf_tf_fingerprint": store.fingerprint},
    )
    done = 0
    with artifacts.atomic_write(path) as file, arrow.parquet.ParquetWriter(file, schema) as writer:
        for ids, vectors in store.global_blocks(_GROUP_ROWS):
            ends = np.arange(len(ids) + 1, dtype=np.int32) * vectors.shape[1]
            arrays = [
                arrow.array(np.arange(done, done + len(ids)), arrow.int64()),
                arrow.array(list(ids), arrow.string()),
                arrow.ListArray.from_arrays(arrow.array(ends), arrow.array(vectors.ravel())),
            ]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
            done += len(ids)
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


def _require_global(store: FeatureStore) -> None:
    require(
        store.global_dim is not None, "The store must hold global descriptors.", path=store.path
    )


def _import_pyarrow() -> Any:
    try:
        arrow = importlib.import_module("pyarrow")
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise invalid(
            "Parquet must be written by pyarrow, which cannot be imported.",
            hint="pip install 'delf_tf[databases]'.",
            fault=str(error),
        ) from None
    return arrow
