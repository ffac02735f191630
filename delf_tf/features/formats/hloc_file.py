"""The HDF5 layout of hloc (Hierarchical-Localization), for its matchers and for those it feeds.

One group an image, named by the image's path, with `keypoints` [N, 2] as (x, y), `descriptors`
[D, N], `scores` [N], `image_size` (width, height) and `global_descriptor` [D]. hloc's keypoints
have the centre of the top-left pixel at (0, 0), which is delf_tf's convention too: the axes are
swapped and nothing is added. (hloc itself adds ½ when it hands keypoints to COLMAP, whose (0, 0)
is that pixel's corner.) `scales` [N] is added for the way back; hloc ignores it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from delf_tf import artifacts
from delf_tf.checks import InputError, invalid, require
from delf_tf.features.blocks import ImageFeatures
from delf_tf.features.formats.exchange_index import Source, require_relative, unit
from delf_tf.features.store import FeatureStore
from delf_tf.progress import track
from delf_tf.types import LocalFeatures

if TYPE_CHECKING:
    import h5py

MAX_ARRAY_BYTES = 1 << 30
_DAMAGE = (OSError, RuntimeError, ValueError, KeyError, TypeError)


def export_hloc(store: FeatureStore, path: Path) -> Path:
    """Writes one HDF5 file; `image_size` is the smallest that holds the keypoints.

    Args:
      store: of any kind; what it holds is written.
      path: of the file, ending in .h5 by hloc's habit.

    Raises:
      InputError: ids that cannot be group names.
    """
    import h5py  # noqa: PLC0415 - slow to load, and few need it

    ids = store.ids()
    for one in ids:
        # In a group's name a backslash is a character as any other.
        require_relative(one.replace("\\", "_"))
    with artifacts.atomic_path(path) as new, h5py.File(new, "x", libver="latest") as file:
        file.attrs["delf_tf_fingerprint"] = store.fingerprint
        for one in track(ids, len(ids), "images", "Exporting"):
            _write_image(_group(file, one), store.read(one))
    return path


def open_hloc(path: Path) -> Source:
    """Opens an HDF5 file of hloc, or of `export_hloc`.

    Scores and scales that are absent become 1.

    Raises:
      InputError: no such file, or not HDF5.
    """
    import h5py  # noqa: PLC0415

    names: set[str] = set()

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            names.add(name.rpartition("/")[0])

    try:
        # Open as long as the source lives: opening it for each image is slow.
        file = h5py.File(path, "r")
        fingerprint = file.attrs.get("delf_tf_fingerprint")
        # As hloc lists its images; it follows no link out of the file.
        file.visititems(visit)
    except _DAMAGE as error:
        raise invalid("The file must be HDF5.", path=path, reason=str(error)) from None

    def read(one: str) -> ImageFeatures:
        try:
            return _read_image(file[one])
        except InputError:
            raise
        except _DAMAGE as error:
            reason = str(error)
            raise invalid("The image's group must be readable.", id=one, reason=reason) from None

    fingerprint = fingerprint if isinstance(fingerprint, str) else None
    return Source(tuple(sorted(names - {""})), read, fingerprint)


def _group(file: h5py.File, name: str) -> h5py.Group:
    try:
        return file.require_group(name)
    except TypeError:
        raise invalid("An id must not lie below another's arrays.", id=name) from None


def _write_image(group: h5py.Group, features: ImageFeatures) -> None:
    if features.global_descriptor is not None:
        group["global_descriptor"] = features.global_descriptor
    local = features.local
    if local is None:
        return
    size = np.ceil(local.locations.max(axis=0, initial=0)) + 1
    group["keypoints"] = local.locations[:, ::-1]
    group["descriptors"] = local.descriptors.T
    group["scores"] = local.scores
    group["scales"] = local.scales
    group["image_size"] = np.asarray(size[::-1], np.int64)


def _read_image(group: h5py.Group) -> ImageFeatures:
    vector = unit(_array(group, "global_descriptor", 1)) if "global_descriptor" in group else None
    if "keypoints" not in group:
        return ImageFeatures(vector, None)
    keypoints = _array(group, "keypoints", 2)
    ones = np.ones(len(keypoints), np.float32)
    scores, scales = (
        _array(group, name, 1) if name in group else ones for name in ("scores", "scales")
    )
    descriptors = _array(group, "descriptors", 2).T
    return ImageFeatures(vector, LocalFeatures(keypoints[:, 1::-1], descriptors, scores, scales))


def _array(group: h5py.Group, name: str, ndim: int) -> np.ndarray:
    import h5py  # noqa: PLC0415

    require(
        isinstance(group.get(name, getlink=True), h5py.HardLink),
        f"'{name}' must lie in the file itself, not behind a link.",
        group=group.name,
    )
    item = group[name]
    require(
        isinstance(item, h5py.Dataset) and item.ndim == ndim and item.dtype.kind == "f",
        f"'{name}' must be an array of floats with {ndim} axes.",
        group=group.name,
    )
    require(
        item.size * 8 <= MAX_ARRAY_BYTES and item.external is None and not item.is_virtual,
        f"'{name}' must be smaller and lie in the file itself.",
        group=group.name,
        shape=item.shape,
    )
    return np.asarray(item[()], np.float32)
