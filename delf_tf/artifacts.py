"""Files written whole or not at all, and fingerprints of what made them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Union

StrPath = Union[str, "os.PathLike[str]"]


@contextlib.contextmanager
def atomic_write(path: StrPath) -> Iterator[BinaryIO]:
    """Opens a binary file that appears under `path` only when the block ends without error.

    The bytes go to a temporary name beside `path`, are synced, then renamed over it, so that a
    reader, a killed writer or a full disk never leaves a partial file under the final name.

    Args:
      path: final path; its folder is made if missing.

    Yields:
      The open temporary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: StrPath) -> Iterator[Path]:
    """Yields a folder to fill that appears under `path` only when the block ends without error.

    What was at `path` is replaced then, and kept if anything fails.

    Args:
      path: final path; its parent folder is made if missing.

    Yields:
      The path of the temporary folder, which does not exist yet.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(new: Path, path: Path) -> None:
    """Renames a folder to `path`; what was there goes when the new one stands, not before."""
    if not path.exists():
        new.rename(path)
        return
    old = new.with_suffix(".old")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old)


def write_bytes(path: StrPath, content: bytes) -> Path:
    """Writes `content` atomically and returns the path."""
    with atomic_write(path) as file:
        file.write(content)
    return Path(path)


def write_text(path: StrPath, text: str) -> Path:
    """Writes UTF-8 text atomically and returns the path."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: StrPath, content: Any) -> Path:
    """Writes indented JSON atomically and returns the path; NaN is refused, as JSON has none."""
    return write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def fingerprint(*parts: bytes | str) -> str:
    """Returns 16 hex digits that change when any of the ordered `parts` does."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()[:16]


def file_fingerprint(path: StrPath) -> str:
    """Returns the fingerprint of a file's content."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
