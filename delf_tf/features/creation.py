"""Creates an empty feature store, or checks that an existing one may be continued."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from delf_tf import artifacts
from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.features import manifest
from delf_tf.features.disk import explained, locked
from delf_tf.features.generations import collection
from delf_tf.features.manifest import Manifest
from delf_tf.features.writer import take_lock

# Held while a store is made, changed or compacted.
LOCK = ".create.lock"
_OWN_FILES = (
    collection.NAME,
    manifest.IDS_NAME,
    "block-*-of-*.safetensors",
    ".block-*.tmp",
    ".times*.json",
)
# Left by processes that were killed in `create`.
_STALE_FILES = tuple(f".{name}.*.tmp" for name in (manifest.NAME, manifest.IDS_NAME))


def create(
    path: StrPath,
    ids: Sequence[str],
    *,
    fingerprint: str,
    num_shards: int = 1,
    block_size: int = 64,
    global_dim: int | None = None,
    local_dim: int | None = None,
    local_codec: str = "float32",
    overwrite: bool = False,
) -> Path:
    """Makes an empty store, or finds that the one at `path` is the same and may be continued.

    Several processes may call it at once with the same arguments. With several shards, call it with
    `overwrite` once, before the shards' own processes start.

    Args:
      path: folder of the store.
      ids: of the images, unique; their order is the store's order. May be empty.
      fingerprint: of the model and config that make the features.
      num_shards: parts that can be written by separate processes.
      block_size: images a file; what a killed run repeats at most.
      global_dim: width of the global descriptors, or None if there are none.
      local_dim: width of the local descriptors, or None if there are none.
      local_codec: how local features are kept, a key of `quantization.CODECS`.
      overwrite: whether to delete the features of a store that lies at `path`.

    Returns:
      The folder.

    Raises:
      InputError: a store made from other arguments lies there, a writer is at work on the one to
        be overwritten, an argument is out of range, or the folder cannot be written.
    """
    folder = Path(path)
    kept = {"global_dim": global_dim, "local_dim": local_dim, "local_codec": local_codec}
    content, ids_text = describe(
        ids, fingerprint=fingerprint, num_shards=num_shards, block_size=block_size, **kept
    )
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK):
            _unlink(folder, _STALE_FILES)
            if overwrite:
                _delete(folder)
            if (folder / manifest.NAME).exists():
                content.require_same(manifest.read_manifest(folder), folder)
            require(
                not (folder / collection.NAME).exists(),
                f"The store at {folder} must not have got or lost images since it was made.",
                hint="Choose another folder, or overwrite the store (--overwrite).",
            )
            _write_missing(folder / manifest.IDS_NAME, ids_text)
            # The manifest comes last: with it the store exists.
            _write_missing(folder / manifest.NAME, content.to_json().encode())
    return folder


def describe(
    ids: Sequence[str],
    *,
    fingerprint: str,
    num_shards: int = 1,
    block_size: int = 64,
    global_dim: int | None = None,
    local_dim: int | None = None,
    local_codec: str = "float32",
) -> tuple[Manifest, bytes]:
    """Returns the manifest of a store that `create` would make, and its ids.json.

    Raises:
      InputError: an argument is out of range.
    """
    ids_text = manifest.ids_text(ids).encode()
    content = Manifest(
        fingerprint=fingerprint,
        num_images=len(ids),
        ids_sha256=manifest.sha256(ids_text),
        num_shards=num_shards,
        block_size=block_size,
        global_dim=global_dim,
        local_dim=local_dim,
        local_codec=None if local_dim is None else local_codec,
    )
    return content, ids_text


def _delete(folder: Path) -> None:
    with ExitStack() as stack:
        for path in folder.rglob(".block-*.lock"):
            stack.callback(take_lock(path).release)
        (folder / manifest.NAME).unlink(missing_ok=True)
        _unlink(folder, _OWN_FILES)
        for path in collection.generation_folders(folder):
            shutil.rmtree(path)


def _unlink(folder: Path, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _write_missing(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        artifacts.write_bytes(path, content)
