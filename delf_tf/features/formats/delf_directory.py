"""Folders of the original's files: ID.delf, or ID.delg_local and ID.delg_global."""

from __future__ import annotations

from pathlib import Path

from delf_tf.checks import require_choice
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

LOCATIONS = ("original", "centre")
_LOCAL, _DELG_LOCAL, _GLOBAL = ".delf", ".delg_local", ".delg_global"


def export_delf(store: FeatureStore, folder: Path, *, locations: str = "original") -> Path:
    """Writes the files that the original's tools read.

    Args:
      store: local features become .delf, or .delg_local if there are global descriptors too, which
        become .delg_global.
      folder: to write to; the ids' sub-folders are kept.
      locations: "original": as the original would have written them, see `delf_format`; or
        "centre": as they are, at receptive-field centres. The folder's index records which.

    Raises:
      InputError: unknown `locations`, or ids that cannot be file names.
    """
    require_choice("locations", locations, LOCATIONS)
    stems = file_stems(store.ids())
    ending = _LOCAL if store.global_dim is None else _DELG_LOCAL
    for one, stem in track(stems.items(), len(stems), "images", "Exporting"):
        features = store.read(one)
        if features.local is not None:
            local = features.local
            if locations == "original":
                local = delf_format.to_original_locations(local)
            delf_format.write_delf(folder / (stem + ending), local)
        if features.global_descriptor is not None:
            delf_format.write_datum(folder / (stem + _GLOBAL), features.global_descriptor)
    write_index(folder, store, stems, locations=locations)
    return folder


def open_delf(folder: Path, *, locations: str | None = None, cell_centre_px: float = 0.0) -> Source:
    """Opens a folder of the original's files, written by the original or by `export_delf`.

    Args:
      folder: of the files.
      locations: what the files hold, "original" or "centre"; None takes the index's word, and
        "original" for a folder without one.
      cell_centre_px: see `delf_format.from_original_locations`.

    Raises:
      InputError: no such folder, or an index that cannot be understood.
    """
    index = read_index(folder, (_LOCAL, _DELG_LOCAL, _GLOBAL))
    locations = locations or index.get("locations", "original")
    require_choice("locations", locations, LOCATIONS)
    stems = index["files"]

    def read_local(stem: str) -> LocalFeatures | None:
        for ending in (_DELG_LOCAL, _LOCAL):
            path = folder / (stem + ending)
            if path.exists():
                local = delf_format.read_delf(path)
                if locations == "centre":
                    return local
                return delf_format.from_original_locations(local, cell_centre_px=cell_centre_px)
        return None

    def read(one: str) -> ImageFeatures:
        path = folder / (stems[one] + _GLOBAL)
        vector = unit(delf_format.read_datum(path).ravel()) if path.exists() else None
        return ImageFeatures(vector, read_local(stems[one]))

    return Source(tuple(stems), read, index.get("fingerprint"))
