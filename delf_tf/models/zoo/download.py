"""Downloads of published files: checked, bounded, and whole or absent."""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path
from typing import Any

from delf_tf.artifacts import StrPath, file_sha256
from delf_tf.checks import InputError, invalid, require
from delf_tf.progress import Progress

MAX_BYTES = 4 << 30
# Without a byte, after which a connection is given up.
TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 18


class DownloadError(InputError):
    """A file that could not be fetched, or that is not the one that was published."""


def cache_dir() -> Path:
    """Returns where downloads are kept: $DELF_TF_CACHE, or ~/.cache/delf_tf."""
    chosen = os.environ.get("DELF_TF_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "delf_tf"


def download(url: str, path: StrPath, *, sha256: str = "") -> Path:
    """Fetches `url` to `path` unless it is there already; a file that is there is checked, too.

    Args:
      url: http or https.
      path: the file to make; it appears when it is whole.
      sha256: 64 hex digits the file must have; empty when the publisher gives none (the sum found
        is logged).

    Returns:
      The path.

    Raises:
      DownloadError: no connection, an HTTP error, too large, cut short, another checksum; the
        message names the URL and the path where the file may be put by hand.
    """
    import pooch  # noqa: PLC0415 - no other command needs it

    scheme = urllib.parse.urlsplit(url).scheme
    require(scheme in ("http", "https"), "A download's URL must be http(s).", url=url)
    path = Path(path)
    if path.is_file():
        found = file_sha256(path) if sha256 else ""
        require(
            found == sha256.lower(),
            "The file must have the published sha256.",
            hint=f"Delete {path}: it is downloaded again from {url}.",
            error=DownloadError,
            path=path,
            expected=sha256,
            found=found,
        )
        return path

    def fetch(url: str, output_path: str, _: Any) -> None:
        _fetch(url, Path(output_path))

    try:
        pooch.retrieve(
            url, sha256.lower() or None, fname=path.name, path=path.parent, downloader=fetch
        )
    except (OSError, ValueError) as error:
        raise invalid(
            f"{url} must be reachable and the file that was published.",
            hint=f"Without a network, fetch it elsewhere and put it at {path}. If its checksum "
            "differs, the publisher has changed it.",
            error=DownloadError,
            reason=" ".join(str(error).split())[:300],
        ) from None
    return path


def _fetch(url: str, path: Path) -> None:
    """Writes what is at `url` to `path`, MAX_BYTES at most."""
    import requests  # noqa: PLC0415 - comes with pooch

    with requests.get(url, stream=True, timeout=TIMEOUT_S) as response, path.open("wb") as file:
        response.raise_for_status()
        length = response.headers.get("Content-Length", "")
        total = int(length) >> 20 if length.isdigit() else 0
        with Progress(max(total, 1), "MiB", "download") as progress:
            done = 0
            for chunk in response.iter_content(_CHUNK_BYTES):
                before, done = done, done + len(chunk)
                if done > MAX_BYTES:
                    raise OSError(f"The file must have at most {MAX_BYTES} bytes.")
                file.write(chunk)
                progress.update((done >> 20) - (before >> 20))
