"""A feature store's manifest, and the division of its images into shards and blocks."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from delf_tf import artifacts
from delf_tf.checks import InputError, invalid, require
from delf_tf.features.quantization import Codec, get_codec

FORMAT_VERSION = 1
NAME = "manifest.json"
IDS_NAME = "ids.json"
MAX_SHARDS = 100_000
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_IDS_BYTES = 8 << 30


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    Shard s of S holds the ids s·n/S to (s+1)·n/S, rounded down, of the list of n; its blocks are
    runs of `block_size` of them, the last one shorter. The order of the blocks by (shard, number)
    is therefore the order of the ids.

    Attributes:
      fingerprint: of the model and config that make the features.
      num_images: length n of the list of ids.
      ids_sha256: of ids.json, hex.
      num_shards: S.
      block_size: images a block.
      global_dim: width of the global descriptors, or None if there are none.
      local_dim: width of the local descriptors, or None if there are none.
      local_codec: name of the codec of the local features, or None.
      format_version: of the store's layout.
    """

    fingerprint: str
    num_images: int
    ids_sha256: str
    num_shards: int
    block_size: int
    global_dim: int | None
    local_dim: int | None
    local_codec: str | None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        _require_int("num_images", self.num_images, 0, 1 << 40)
        _require_int("num_shards", self.num_shards, 1, MAX_SHARDS)
        _require_int("block_size", self.block_size, 1, 1 << 20)
        for name in ("global_dim", "local_dim"):
            if getattr(self, name) is not None:
                _require_int(name, getattr(self, name), 1, 1 << 20)
        require(
            self.global_dim is not None or self.local_dim is not None,
            "A store must hold global descriptors, local features or both.",
            hint="Set global_dim, local_dim or both.",
        )
        require(
            isinstance(self.fingerprint, str) and bool(self.fingerprint),
            "A store's fingerprint must be a string that is not empty.",
            fingerprint=self.fingerprint,
        )
        _ = self.codec  # Refuses an unknown name.

    @functools.cached_property
    def codec(self) -> Codec | None:
        """The codec of the local features; None if there are none."""
        return None if self.local_dim is None else get_codec(str(self.local_codec), self.local_dim)

    def features(self) -> dict[str, Any]:
        """Returns what tells how features are made and kept: arguments of `creation.create`."""
        return {
            "fingerprint": self.fingerprint,
            "global_dim": self.global_dim,
            "local_dim": self.local_dim,
            "local_codec": self.local_codec or "float32",
        }

    def blocks(self, shard: int) -> Iterator[tuple[int, int, int]]:
        """Yields (block number, first row, row after the last) of `shard`; rows count the ids."""
        first = shard * self.num_images // self.num_shards
        last = (shard + 1) * self.num_images // self.num_shards
        for number, start in enumerate(range(first, last, self.block_size)):
            yield number, start, min(start + self.block_size, last)

    def block_name(self, shard: int, number: int) -> str:
        """Returns the name of a block's file."""
        return f"{shard_prefix(shard, self.num_shards)}-{number:06d}.safetensors"

    def to_json(self) -> str:
        """Returns the text of manifest.json."""
        content = {"format": "delf_tf feature store", **dataclasses.asdict(self)}
        return json.dumps(content, indent=2) + "\n"

    def require_same(
        self, existing: Manifest, path: Path, *, leave_out: Sequence[str] = ()
    ) -> None:
        """Requires the store that exists at `path` to be the one that is asked for.

        Args:
          existing: its manifest.
          path: of its folder.
          leave_out: fields that may differ.

        Raises:
          InputError: naming each field that differs.
        """
        pairs = {
            field.name: (getattr(existing, field.name), getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in leave_out
        }
        differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        if differing:
            what = ", ".join("list of images" if n == "ids_sha256" else n for n in differing)
            raise invalid(
                f"The store at {path} must have been made with the same {what}.",
                hint="Choose another folder, or overwrite the store (--overwrite).",
                **{name: f"{old} there, {new} now" for name, (old, new) in differing.items()},
            )


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks a store's manifest.

    Raises:
      InputError: no store there, or a manifest that cannot be understood.
    """
    path = folder / NAME
    if not path.is_file():
        raise invalid(
            "A feature store must have a manifest.json.",
            hint="Extract features into this folder first.",
            path=folder,
        )
    try:
        content = json.loads(artifacts.read_limited(path, path.name, _MAX_MANIFEST_BYTES))
        version = content.get("format_version")
        require(
            content.pop("format") == "delf_tf feature store" and version == FORMAT_VERSION,
            f"A feature store's manifest must be of version {FORMAT_VERSION}.",
            hint="Read it with the version of delf_tf that wrote it.",
            format_version=version,
            path=path,
        )
        content.pop("codec_sha256", None)  # Earlier versions wrote it.
        return Manifest(**content)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise invalid(
            "A feature store's manifest must be as delf_tf wrote it.",
            hint="Restore it from a copy, or make the store again.",
            path=path,
        ) from None


def ids_text(ids: Sequence[str]) -> str:
    """Returns the text of ids.json: a JSON list, one id a line.

    Raises:
      InputError: ids that are not unique strings, or empty ones.
    """
    wrong = [one for one in ids if not isinstance(one, str) or not one]
    require(not wrong, "A store's ids must be strings that are not empty.", ids=wrong[:3])
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        repeated = [one for one in ids if one in seen or seen.add(one)]  # type: ignore[func-returns-value]
        raise invalid("A store's ids must be unique.", repeated=repeated[:3])
    return "[\n" + ",\n".join(json.dumps(one) for one in ids) + "\n]\n"


def read_ids(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """Reads the list of ids and checks it against the manifest.

    Raises:
      InputError: the list is missing or is not the one that the manifest was written for.
    """
    path = folder / IDS_NAME
    raw = artifacts.read_limited(path, path.name, _MAX_IDS_BYTES) if path.is_file() else b""
    if sha256(raw) != manifest.ids_sha256:
        raise invalid(
            "A feature store's ids.json must be the one its manifest was written for.",
            hint="Run the extraction again with the same arguments: it restores the file.",
            path=path,
        )
    try:
        ids = json.loads(raw)
    except (ValueError, RecursionError):
        ids = None
    listed = isinstance(ids, list) and len(ids) == manifest.num_images
    require(listed, "ids.json must list num_images ids.", path=path)
    ids_text(ids)
    return tuple(ids)


def shard_prefix(shard: int, num_shards: int) -> str:
    """Returns how the names of a shard's files begin."""
    return f"block-{shard:05d}-of-{num_shards:05d}"


def sha256(raw: bytes) -> str:
    """Returns the hex digest of `raw`."""
    return hashlib.sha256(raw).hexdigest()


def _require_int(name: str, value: Any, low: int, high: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(
        whole and low <= value <= high,
        f"A store's {name} must be a whole number in {low}..{high}.",
        **{name: value},
    )
