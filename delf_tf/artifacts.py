"""Files written whole or not at all, and fingerprints of what made them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from delf_tf.checks import InputError, invalid, require

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)

StrPath = str | os.PathLike[str]


@contextlib.contextmanager
def atomic_write(path: StrPath) -> Iterator[BinaryIO]:
    """Opens a binary file that appears under `path` only when the block ends without error.

    The bytes go to a temporary name beside `path`, are synced, then renamed over it, so that a
    reader, a killed writer or a full disk never leaves a partial file under the final name. What
    writers that were killed have left in the folder is removed.

    Args:
      path: final path; its folder is made if missing.

    Yields:
      The open temporary file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent)
    temporary, file = _open_temporary(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException as error:
        # What a full disk raises names no file.
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            error.filename = str(path)
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """Yields a path for a library to write a file to; it takes `path`'s place when that is done.

    Args:
      path: final path; its folder is made if missing.

    Yields:
      The path of the temporary file, which does not exist yet.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


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
    temporary = _temporary_name(path)
    try:
        yield temporary
        _replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_name(path: Path) -> Path:
    """Returns a new name beside `path`, of the form that `_remove_stale` knows."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


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


def _open_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """Opens a new file beside `path`, locked while it is open: the sign that its writer lives."""
    while True:
        temporary = _temporary_name(path)
        file = temporary.open("xb")
        with contextlib.suppress(OSError):  # Not every file system has locks.
            fcntl.flock(file, fcntl.LOCK_EX)
        # Before it was locked, another process may have taken it for a stale one.
        if temporary.exists():
            return temporary, file
        file.close()


def is_temporary(path: Path) -> bool:
    """Whether a name is that of a file that is being written, or was when its writer was killed."""
    return _TEMPORARY.fullmatch(path.name) is not None


@functools.lru_cache(maxsize=1024)
def _remove_stale(folder: Path) -> None:
    """Removes the temporary files in a folder whose writers are no more; once a process."""
    with contextlib.suppress(OSError):
        for path in filter(is_temporary, list(folder.iterdir())):
            # Locked, a folder, or on a file system without locks: then it stays.
            with contextlib.suppress(OSError), path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


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


def read_limited(path: StrPath, what: str, max_bytes: int) -> bytes:
    """Returns the content of a file of at most `max_bytes`; memory is taken for what is there.

    Raises:
      InputError: a longer file; it is called `what`.
    """
    with Path(path).open("rb") as file:
        # A read allocates what it is allowed to read.
        raw = file.read(min(os.fstat(file.fileno()).st_size, max_bytes) + 1)
    require(len(raw) <= max_bytes, f"{what} must be no longer than {max_bytes} bytes.", path=path)
    return raw


def read_json(path: StrPath, what: str, *, hint: str = "", max_bytes: int = 256 << 20) -> Any:
    """Returns the content of a JSON file that may come from a stranger.

    Args:
      path: the file.
      what: it is, for errors.
      hint: what to do when it is damaged, for errors.
      max_bytes: longer files are not read.

    Raises:
      InputError: too long, not JSON, or nested too deep.
    """
    raw = read_limited(path, what, max_bytes)
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise invalid(f"{what} must be JSON.", hint=hint, path=path, fault=fault) from None


def refused(error: OSError, path: StrPath | None = None) -> InputError:
    """Returns what the system refused as an error that names the path and says what to do.

    Args:
      error: of the system.
      path: what was worked on, where the error names another file or none.
    """
    name = path or error.filename
    if name is None:
        return InputError(str(error))
    if error.errno in _FULL:
        must, hint = f"There must be room on the disk of {name}.", "free some space"
    elif error.errno in _FORBIDDEN:
        must, hint = f"{name} must be readable and writable.", "change its permissions, or choose"
        hint += " another place,"
    elif error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        must, hint = f"{name} must not have a file in a folder's place.", "choose another path"
    elif error.errno in (errno.EMFILE, errno.ENFILE):
        must, hint = f"{name} must not be one open file too many.", "raise the limit (ulimit -n)"
    else:
        must, hint = f"{name} must be there and in order.", "mend that"
    return invalid(
        must,
        hint=f"What was finished is kept: {hint} and run the same command again.",
        reason=error.strerror,
        file=error.filename,
    )


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
    return file_sha256(path)[:16]


def file_sha256(path: StrPath) -> str:
    """Returns the SHA-256 of a file's content, 64 hex digits.

    Raises:
      OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
