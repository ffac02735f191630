"""Labelled images in TFRecord shards: the schema of an example, and the shards of a set.

The keys are those of the original DELF's builder, so that either program reads the other's files.
The original declares `image/filename` and never writes it; here it is neither written nor needed.
Shards are named `train-00000-of-00128`. Beside them, `records-train.json` says what they hold.
"""

from __future__ import annotations

import dataclasses
import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from delf_tf import artifacts
from delf_tf.checks import invalid, require
from delf_tf.datasets.records import files as record_files

ENCODED = "image/encoded"
HEIGHT = "image/height"
WIDTH = "image/width"
COLORSPACE = "image/colorspace"
CHANNELS = "image/channels"
FORMAT = "image/format"
ID = "image/id"
LABEL = "image/class/label"
NO_LABEL = -1

_MANIFEST = {
    "split": str,
    "fingerprint": str,
    "num_classes": int,
    "source": dict,
    "shards": list,
    "failed": list,
}
_COUNTS = ("num_records", "num_bytes")
_MANIFEST_HINT = "Delete it to use the shards without one, or run build_tfrecords again."
_SHARD_NAME = re.compile(r"(?P<split>[\w.]+)-(?P<shard>\d{5})-of-(?P<num_shards>\d{5})")


@dataclasses.dataclass(frozen=True)
class Records:
    """Shards to train on, and how many records each holds.

    Attributes:
      paths: the shards, sorted.
      counts: good records of each.
      bad: damaged records, which no good count includes.
      manifest: the content of `records-SPLIT.json`, or None for shards made elsewhere.
    """

    paths: tuple[str, ...]
    counts: tuple[int, ...]
    bad: tuple[record_files.BadRecord, ...] = ()
    manifest: Mapping[str, Any] | None = None

    @property
    def num_records(self) -> int:
        """Number of good records in all shards."""
        return sum(self.counts)


def make_example(
    image_id: str, encoded: bytes, height: int, width: int, label: int | None = None
) -> bytes:
    """Returns one serialised tf.train.Example, the same bytes for the same arguments.

    Args:
      image_id: unique in the dataset.
      encoded: JPEG file content, upright RGB.
      height: of the decoded image, pixels.
      width: likewise.
      label: class in 0..C-1; None for images without one (test and index sets).
    """
    features = {
        ENCODED: _bytes(encoded),
        HEIGHT: _int64(height),
        WIDTH: _int64(width),
        COLORSPACE: _bytes(b"RGB"),
        CHANNELS: _int64(3),
        FORMAT: _bytes(b"JPEG"),
        ID: _bytes(image_id.encode("utf-8")),
    }
    if label is not None:
        features[LABEL] = _int64(label)
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def parse_example(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses one serialised example, eagerly or in a graph.

    Args:
      serialized: scalar string.

    Returns:
      Scalars: "encoded" string, "id" string, "label" int64 (-1 = none), "height" and "width" int64.
    """
    spec = {
        ENCODED: tf.io.FixedLenFeature([], tf.string, ""),
        ID: tf.io.FixedLenFeature([], tf.string, ""),
        LABEL: tf.io.FixedLenFeature([], tf.int64, NO_LABEL),
        HEIGHT: tf.io.FixedLenFeature([], tf.int64, 0),
        WIDTH: tf.io.FixedLenFeature([], tf.int64, 0),
    }
    parsed = tf.io.parse_single_example(serialized, spec)
    names = {"encoded": ENCODED, "id": ID, "label": LABEL, "height": HEIGHT, "width": WIDTH}
    return {name: parsed[key] for name, key in names.items()}


def open_records(file_pattern: str, *, check: str = "headers") -> Records:
    """Finds shards, checks that none is missing, and counts their records.

    Args:
      file_pattern: glob, comma-separated globs, or a folder ("…/train*", "gs://bucket/train*").
      check: "headers" counts by seeking through the record lengths and trusts a manifest instead
        where the sizes agree; "full" reads everything and verifies every checksum and example.

    Raises:
      InputError: nothing matches, or shards of a set "-of-NNNNN" are missing.
    """
    paths = _matches(file_pattern)
    require(bool(paths), "The file pattern must match TFRecord shards.", file_pattern=file_pattern)
    _require_all_shards(paths)
    manifest = _common_manifest(paths)
    trusted = _trusted_counts(paths, manifest) if check == "headers" else None
    if trusted is not None:
        return Records(tuple(paths), trusted, (), manifest)
    scans = [record_files.scan(path, check=check) for path in paths]
    bad = [record for found in scans for record in found.bad]
    return Records(tuple(paths), tuple(found.num_records for found in scans), tuple(bad), manifest)


def manifest_path(folder: artifacts.StrPath, split: str) -> Path:
    """Returns where the manifest of a split lies; no glob for shards, "train*", matches it."""
    return Path(folder) / f"records-{split}.json"


def read_manifest(path: artifacts.StrPath) -> Mapping[str, Any]:
    """Reads `records-SPLIT.json`.

    Raises:
      InputError: not as build_tfrecords writes it.
    """
    what = "A manifest of shards"
    content = artifacts.read_json(path, what, hint=_MANIFEST_HINT)
    known = isinstance(content, dict) and all(
        isinstance(content.get(name), kind) for name, kind in _MANIFEST.items()
    )
    known = known and all(
        isinstance(shard, dict)
        and isinstance(shard.get("name"), str)
        and all(isinstance(shard.get(n), int) and shard[n] >= 0 for n in _COUNTS)
        for shard in content["shards"]
    )
    known = known and all(isinstance(pair, list) and len(pair) == 2 for pair in content["failed"])
    must = f"{what} must be as delf_tf build_tfrecords writes it."
    require(known, must, hint=_MANIFEST_HINT, path=str(path))
    return content


def shard_name(split: str, shard: int, num_shards: int) -> str:
    """Returns a shard's file name, e.g. train-00000-of-00128."""
    return f"{split}-{shard:05d}-of-{num_shards:05d}"


def _matches(file_pattern: str) -> list[str]:
    paths: list[str] = []
    for pattern in filter(None, (part.strip() for part in file_pattern.split(","))):
        if "://" in pattern:
            paths += tf.io.gfile.glob(pattern)
        elif Path(pattern).is_dir():
            paths += [str(p) for p in Path(pattern).iterdir() if _SHARD_NAME.fullmatch(p.name)]
        else:
            paths += [path for path in glob.glob(pattern) if Path(path).is_file()]  # noqa: PTH207
    return sorted(set(paths))


def _require_all_shards(paths: Sequence[str]) -> None:
    sets: dict[tuple[str, int], set[int]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        found = _SHARD_NAME.fullmatch(name)
        if found:
            key = (f"{folder}/{found['split']}", int(found["num_shards"]))
            sets.setdefault(key, set()).add(int(found["shard"]))
    for (prefix, num_shards), present in sets.items():
        missing = sorted(set(range(num_shards)) - present)
        if missing:
            raise invalid(
                f"All {num_shards} shards of {prefix}-* must be there.",
                hint="Run delf_tf build_tfrecords again: it makes what is missing.",
                missing=missing[:5],
                num_missing=len(missing),
            )


def _common_manifest(paths: Sequence[str]) -> Mapping[str, Any] | None:
    """Returns the one manifest that names all the shards, or None."""
    found = {(p.rpartition("/")[0], m["split"]) for p in paths if (m := _SHARD_NAME.search(p))}
    if len(found) != 1:
        return None
    folder, split = next(iter(found))
    path = manifest_path(folder or ".", split)
    if "://" in folder or not path.is_file():
        return None
    content = read_manifest(path)
    named = {shard["name"] for shard in content["shards"]}
    return content if named == {Path(path).name for path in paths} else None


def _trusted_counts(
    paths: Sequence[str], manifest: Mapping[str, Any] | None
) -> tuple[int, ...] | None:
    if manifest is None:
        return None
    shards = {shard["name"]: shard for shard in manifest["shards"]}
    counts = []
    for path in map(Path, paths):
        if path.stat().st_size != shards[path.name]["num_bytes"]:
            return None
        counts.append(shards[path.name]["num_records"])
    return tuple(counts)


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int64(value: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
