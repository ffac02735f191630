"""Downloads of published files: resumed, checked, bounded, and whole or absent."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Union

from absl import logging

from delf_tf.checks import InputError, invalid, require
from delf_tf.progress import Progress

StrPath = Union[str, "os.PathLike[str]"]

MAX_BYTES = 4 << 30
TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 18
_MIB = 1 << 20


class DownloadError(InputError):
    """A file that could not be fetched, or that is not the one that was published."""


def cache_dir() -> Path:
    """Returns where downloads are kept: $DELF_TF_CACHE, or ~/.cache/delf_tf."""
    chosen = os.environ.get("DELF_TF_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "delf_tf"


def download(
    url: str,
    path: StrPath,
    *,
    sha256: str = "",
    max_bytes: int = MAX_BYTES,
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Fetches `url` to `path` unless it is there already.

    The bytes go to `path` + ".part", which a later call resumes where the server allows it; the
    final name appears only when length and checksum are right. A file that is already there is
    checked, too.

    Args:
      url: http or https.
      path: the file to make.
      sha256: 64 hex digits the file must have; empty when the publisher gives none (the sum found
        is logged).
      max_bytes: largest file that is fetched.
      timeout_s: without a byte, after which the connection is given up.

    Returns:
      The path.

    Raises:
      DownloadError: no connection, an HTTP error, too large, cut short, another checksum; the
        message names the URL and the path where the file may be put by hand.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    require(scheme in ("http", "https"), "A download's URL must be http(s).", url=url)
    path = Path(path)
    if path.is_file():
        _require_sha256(path, sha256, url, path)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        _fetch(url, part, max_bytes, timeout_s)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise _failure(url, path, error) from None
    _require_sha256(part, sha256, url, path)
    part.replace(path)
    return path


def _fetch(url: str, part: Path, max_bytes: int, timeout_s: float) -> None:
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        # 416: the part is as long as the file, or longer; only the whole file can tell.
        error.close()
        if error.code != 416:
            raise
        part.unlink()
        response = urllib.request.urlopen(url, timeout=timeout_s)
    with response:
        have = have if response.status == 206 else 0
        total = _total_bytes(response, have)
        require(
            total is None or total <= max_bytes,
            f"The file must have at most {max_bytes} bytes.",
            error=DownloadError,
            url=url,
            num_bytes=total,
        )
        _copy(response, part, have, total, max_bytes)


def _total_bytes(response: http.client.HTTPResponse, have: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return have + int(length) if length.isdigit() else None


def _copy(
    response: http.client.HTTPResponse, part: Path, have: int, total: int | None, max_bytes: int
) -> None:
    name = part.name[: -len(".part")]
    with (
        part.open("ab" if have else "wb") as file,
        Progress(
            max((total or 0) // _MIB, 1), "MiB", f"downloading {name}", done=have // _MIB
        ) as progress,
    ):
        done = have
        while chunk := response.read(_CHUNK_BYTES):
            file.write(chunk)
            progress.update((done + len(chunk)) // _MIB - done // _MIB)
            done += len(chunk)
            require(
                done <= max_bytes,
                f"The file must have at most {max_bytes} bytes.",
                error=DownloadError,
                path=part,
            )
        file.flush()
        os.fsync(file.fileno())
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done} of {total} bytes")


def _require_sha256(found: Path, sha256: str, url: str, path: Path) -> None:
    digest = hashlib.sha256()
    with found.open("rb") as file:
        for chunk in iter(lambda: file.read(_MIB), b""):
            digest.update(chunk)
    if not sha256:
        logging.warning("%s has no published checksum; its sha256 is %s.", url, digest.hexdigest())
        return
    if digest.hexdigest() != sha256.lower():
        if found != path:
            found.unlink()  # A resumed download would only repeat the fault.
        raise invalid(
            "The file must have the published sha256.",
            hint=f"Delete {path} and download it again from {url}; if that does not help, the "
            "publisher has changed the file.",
            error=DownloadError,
            path=path,
            expected=sha256,
            found=digest.hexdigest(),
        )


def _failure(url: str, path: Path, error: Exception) -> DownloadError:
    status = getattr(error, "code", None)
    reason = f"HTTP {status}" if status else str(getattr(error, "reason", error))
    return invalid(
        f"{url} must be reachable.",
        hint=f"Without a network, fetch it elsewhere and put it at {path}; what arrived so far is "
        "kept and will be resumed.",
        error=DownloadError,
        reason=reason,
    )
