"""Folders of the original's files: ID.delf, or ID.delg_local and ID.delg_global."""

from __future__ import annotations

from pathlib import Path

from delf_tf.features.blocks import ImageFeatures
from delf_tf.features.formats import delf_format
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

_LOCAL, _DELG_LOCAL, _GLOBAL = ".delf", ".delg_local", ".delg_global"


def export_delf(store: FeatureStore, folder: Path) -> Path:
    """Writes the files that the original's tools read, with its locations: see `delf_format`.

    Args:
      store: local features become .delf, or .delg_local if there are global descriptors too, which
        become .delg_global.
      folder: to write to; the ids' sub-folders are kept.

    Raises:
      InputError: ids that cannot be file names.
    """
    stems = file_stems(store.ids())
    ending = _LOCAL if store.global_dim is None else _DELG_LOCAL
    for one, stem in track(stems.items(), len(stems), "images", "Exporting"):
        features = store.read(one)
        if features.local is not None:
            local = delf_format.to_original_locations(features.local)
            delf_format.write_delf(folder / (stem + ending), local)
        if features.global_descriptor is not None:
            delf_format.write_datum(folder / (stem + _GLOBAL), features.global_descriptor)
    write_index(folder, store, stems)
    return folder


def open_delf(folder: Path, *, cell_centre_px: float = 0.0) -> Source:
    """Opens a folder of the original's files, written by the original or by `export_delf`.

    Args:
      folder: of the files.
      cell_centre_px: see `delf_format.from_original_locations`.

    Raises:
      InputError: no such folder, or an index that cannot be understood.
    """
    index = read_index(folder, (_LOCAL, _DELG_LOCAL, _GLOBAL))
    stems = index["files"]

    def read_local(stem: str) -> LocalFeatures | None:
        for ending in (_DELG_LOCAL, _LOCAL):
            path = folder / (stem + ending)
            if path.exists():
                local = delf_format.read_delf(path)
                return delf_format.from_original_locations(local, cell_centre_px=cell_centre_px)
        return None

    def read(one: str) -> ImageFeatures:
        path = folder / (stems[one] + _GLOBAL)
        vector = unit(delf_format.read_datum(path).ravel()) if path.exists() else None
        return ImageFeatures(vector, read_local(stems[one]))

    return Source(tuple(stems), read, index.get("fingerprint"))
