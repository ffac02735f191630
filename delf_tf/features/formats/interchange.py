"""Features to and from other programs: one function each way, and a table of formats.

| format | what | locations |
|---|---|---|
| delf | folder of .delf, or .delg_local and .delg_global | the original's, see `delf_format` |
| hloc | one HDF5 file | (x, y), pixel centres at whole numbers, see `hloc_file` |
| npy | one .npy of global descriptors, with NAME.ids.json | none |
| parquet | one file of ids and global descriptors, only written | none |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from delf_tf import artifacts
from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, invalid, require, require_choice
from delf_tf.features.blocks import ImageFeatures
from delf_tf.features.disk import explained
from delf_tf.features.formats import delf_directory, hloc_file, numpy_files
from delf_tf.features.formats.exchange_index import Source
from delf_tf.features.store import FeatureStore, create, writer
from delf_tf.progress import track
from delf_tf.types import LocalFeatures

# name -> (store, path) -> path
EXPORTERS: dict[str, Callable[..., Path]] = {
    "delf": delf_directory.export_delf,
    "hloc": hloc_file.export_hloc,
    "npy": numpy_files.export_npy,
    "parquet": numpy_files.export_parquet,
}
# name -> (path, **options) -> Source
OPENERS: dict[str, Callable[..., Source]] = {
    "delf": delf_directory.open_delf,
    "hloc": hloc_file.open_hloc,
    "npy": numpy_files.open_npy,
}


def export_features(
    store: FeatureStore, path: StrPath, format: str, *, overwrite: bool = False
) -> Path:
    """Writes what `store` holds for another program; images that failed are left out.

    Args:
      store: to be exported.
      path: file or folder, by the format.
      format: a key of `EXPORTERS`.
      overwrite: whether to write over a file, or into a folder that is not empty.

    Returns:
      The path.

    Raises:
      InputError: unknown format, something lies at `path`, or the disk is full.
    """
    require_choice("format", format, EXPORTERS)
    path = Path(path)
    taken = any(path.iterdir()) if path.is_dir() else path.exists()
    require(
        overwrite or not taken,
        "Features must be exported to a new place.",
        hint="Choose another path, or overwrite it (--overwrite).",
        path=path,
    )
    with explained(path.parent):
        return EXPORTERS[format](store, path)


def import_features(
    path: StrPath,
    store_path: StrPath,
    format: str,
    *,
    local_codec: str = "float32",
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Makes a store of features that another program wrote; continues if killed.

    An image whose features cannot be read becomes a failure of the store. Global descriptors are
    L2-normalised unless they are to 1e-3. The store's fingerprint is the one that delf_tf wrote
    beside the features, or that of the format and the ids.

    Args:
      path: file or folder, by the format.
      store_path: folder of the store.
      format: a key of `OPENERS`.
      local_codec: see `creation.create`.
      overwrite: whether to replace a store at `store_path`.
      **options: of the format's own opener.

    Returns:
      The store's folder.

    Raises:
      InputError: unknown format, nothing readable at `path`, or another store at `store_path`.
    """
    require_choice("format", format, OPENERS)
    source = OPENERS[format](Path(path), **options)
    global_dim, local_dim = _widths(source, Path(path))
    store = create(
        store_path,
        source.ids,
        fingerprint=source.fingerprint or artifacts.fingerprint("imported", format, *source.ids),
        global_dim=global_dim,
        local_dim=local_dim,
        local_codec=local_codec,
        overwrite=overwrite,
    )
    with writer(store) as shard_writer:
        pending = shard_writer.pending(retry_failures=False)
        for block, ids in track(pending, len(pending), "blocks", "Importing"):
            features, failures = _read_block(source, ids, global_dim, local_dim)
            shard_writer.write(block, ids, features, failures)
    return store


def _widths(source: Source, path: Path) -> tuple[int | None, int | None]:
    """Returns the widths of the first image that has all of them; one without features has none."""
    global_dim = local_dim = None
    for one in source.ids:
        features, _ = _try_read(source, one)
        if features is None:
            continue
        if features.global_descriptor is not None:
            global_dim = len(features.global_descriptor)
        if features.local is not None and (features.local.dim or len(features.local)):
            local_dim = features.local.dim
        if features.local is None or local_dim is not None:
            break
    if global_dim is None and local_dim is None:
        raise invalid("There must be an image with features to import.", path=path)
    return global_dim, local_dim


def _read_block(
    source: Source, ids: Sequence[str], global_dim: int | None, local_dim: int | None
) -> tuple[list[ImageFeatures | None], dict[str, str]]:
    features, failures = [], {}
    for one in ids:
        given, reason = _try_read(source, one)
        if given is not None:
            given, reason = _fitted(given, global_dim, local_dim)
        features.append(given)
        if given is None:
            failures[one] = reason
    return features, failures


def _try_read(source: Source, one: str) -> tuple[ImageFeatures | None, str]:
    try:
        return source.read(one), ""
    except InputError as error:
        return None, str(error)


def _fitted(
    features: ImageFeatures, global_dim: int | None, local_dim: int | None
) -> tuple[ImageFeatures | None, str]:
    vector, local = features.global_descriptor, features.local
    if local is not None and not len(local) and local_dim is not None:
        local = LocalFeatures.empty(local_dim)
    widths = (None if vector is None else len(vector), None if local is None else local.dim)
    if widths != (global_dim, local_dim):
        return None, f"has widths {widths}, not {(global_dim, local_dim)} (global, local)"
    return ImageFeatures(vector, local), ""
