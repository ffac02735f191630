"""Copies a store with another codec, without extracting again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from delf_tf import artifacts
from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.features.store import FeatureStore, ImageFeatures, create, writer
from delf_tf.progress import track
from delf_tf.types import LocalFeatures


@dataclasses.dataclass(frozen=True)
class Change:
    """What is made of an image's local features before they are stored.

    Attributes:
      function: of the features.
      local_dim: width of the descriptors that it returns.
      fingerprint: of all that it depends on.
    """

    function: Callable[[LocalFeatures], LocalFeatures]
    local_dim: int
    fingerprint: str


def recode(
    source: FeatureStore,
    path: StrPath,
    local_codec: str,
    *,
    change: Change | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the features of `source` to a new store with another codec; continues if killed.

    Args:
      source: a store with local features.
      path: folder of the new store.
      local_codec: see `creation.create`.
      change: made to the local features; None: they stay.
      overwrite: whether to replace a store at `path`.

    Returns:
      The folder.

    Raises:
      InputError: no local features, or another store lies at `path`.
    """
    require(source.local_dim is not None, "The store must hold local features.", path=source.path)
    arguments = {**source.manifest.features(), "local_codec": local_codec}
    if change is not None:
        made_by = artifacts.fingerprint(source.fingerprint, change.fingerprint)
        arguments |= {"fingerprint": made_by, "local_dim": change.local_dim}
    num_shards = source.manifest.num_shards
    arguments |= {"num_shards": num_shards, "block_size": source.manifest.block_size}
    folder = create(path, source.all_ids(), overwrite=overwrite, **arguments)
    failed = source.failed()
    for shard in range(num_shards):
        with writer(folder, shard, num_shards) as shard_writer:
            pending = shard_writer.pending(retry_failures=False)
            for block, ids in track(pending, len(pending), "blocks", f"Re-coding shard {shard}"):
                features = [
                    None if one in failed else _changed(source.read(one), change) for one in ids
                ]
                reasons = {one: failed[one] for one in ids if one in failed}
                shard_writer.write(block, ids, features, reasons, source.sources_of(ids))
    return folder


def _changed(features: ImageFeatures, change: Change | None) -> ImageFeatures:
    if change is None or features.local is None:
        return features
    return dataclasses.replace(features, local=change.function(features.local))
