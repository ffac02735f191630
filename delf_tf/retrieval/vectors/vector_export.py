"""Ids and vectors in the forms that vector databases load in bulk: NumPy files and Parquet."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf.artifacts import StrPath, atomic_write, write_json
from delf_tf.checks import invalid, require, require_choice
from delf_tf.retrieval.vectors.whitening import Whitening

FORMATS = ("npy", "parquet")
Block = tuple[Sequence[str], np.ndarray]


def export_vectors(
    folder: StrPath,
    blocks: Callable[[], Iterable[Block]],
    *,
    fingerprint: str,
    whitening: Whitening | None = None,
    formats: Sequence[str] = FORMATS,
) -> Path:
    """Writes descriptors for other programs; memory does not grow with their number.

    "npy" writes vectors.npy, float32 [N, D], and ids.npy, text [N]; "parquet" writes
    vectors.parquet with the columns row (int64, the row in both), id (string) and vector (list of
    float), a row group a block. manifest.json, written last, tells their number and width, that
    rows have L2 norm 1 so that inner products are to be compared, and the fingerprint.

    Args:
      folder: made if missing; files of those names in it are replaced.
      blocks: gives an iterable of (n ids, float32 [n, D]) each time it is called.
      fingerprint: of what made the descriptors.
      whitening: applied to what is written, or None.
      formats: of FORMATS.

    Returns:
      `folder`.

    Raises:
      InputError: no images, an unknown format, Parquet without pyarrow.
    """
    for one in formats:
        require_choice("format", one, FORMATS)
    require(bool(formats), "At least one format must be given.", formats=formats)
    parquet = _import_pyarrow() if "parquet" in formats else None
    folder = Path(folder)
    manifest = folder / "manifest.json"
    manifest.unlink(missing_ok=True)

    def whitened() -> Iterator[Block]:
        for ids, vectors in blocks():
            if len(ids):
                yield ids, vectors if whitening is None else whitening.apply(vectors)

    ids, dim = _count(whitened())
    if "npy" in formats:
        _write_npy(folder, ids, dim, whitened())
    if parquet is not None:
        _write_parquet(folder / "vectors.parquet", parquet, dim, whitened())
    facts = {
        "num_images": len(ids),
        "dim": dim,
        "dtype": "float32",
        "metric": "inner product",
        "fingerprint": fingerprint,
        "whitened_by_export": whitening is not None,
        "formats": list(formats),
    }
    write_json(manifest, facts)
    return folder


def _count(blocks: Iterable[Block]) -> tuple[list[str], int]:
    ids: list[str] = []
    dim = 0
    for some, vectors in blocks:
        ids.extend(some)
        dim = vectors.shape[1]
    require(bool(ids), "There must be at least one image to export.", num_images=0)
    return ids, dim


def _write_npy(folder: Path, ids: Sequence[str], dim: int, blocks: Iterable[Block]) -> None:
    with atomic_write(folder / "ids.npy") as file:
        np.lib.format.write_array(file, np.array(ids, np.str_), allow_pickle=False)
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(ids), dim)}
    with atomic_write(folder / "vectors.npy") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _, vectors in blocks:
            file.write(np.ascontiguousarray(vectors, "<f4").tobytes())


def _write_parquet(path: Path, arrow: Any, dim: int, blocks: Iterable[Block]) -> None:
    schema = arrow.schema(
        [
            arrow.field("row", arrow.int64(), nullable=False),
            arrow.field("id", arrow.string(), nullable=False),
            arrow.field("vector", arrow.list_(arrow.float32()), nullable=False),
        ]
    )
    done = 0
    with atomic_write(path) as file, arrow.parquet.ParquetWriter(file, schema) as writer:
        for ids, vectors in blocks:
            flat = np.ascontiguousarray(vectors, np.float32).ravel()
            ends = np.arange(0, len(flat) + 1, dim, dtype=np.int32)
            columns = [
                arrow.array(np.arange(done, done + len(ids)), arrow.int64()),
                arrow.array(list(ids), arrow.string()),
                arrow.ListArray.from_arrays(arrow.array(ends), arrow.array(flat)),
            ]
            writer.write_table(arrow.Table.from_arrays(columns, schema=schema))
            done += len(ids)


def _import_pyarrow() -> Any:
    try:
        arrow = importlib.import_module("pyarrow")
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise invalid(
            "Parquet must be written by pyarrow, which cannot be imported.",
            hint="pip install 'delf_tf[databases]', or leave Parquet out: --export_formats=npy.",
            fault=str(error),
        ) from None
    return arrow
