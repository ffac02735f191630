"""The token of those who may change the collection."""

from __future__ import annotations

import hmac
import os
import stat
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.serving.limits import error

_MIN_CHARACTERS, _MAX_BYTES = 16, 1024


def read_token(path: StrPath) -> str:
    """Reads an access token.

    Args:
      path: of a file that holds it and nothing else, and that its owner alone can read.

    Raises:
      InputError: a file that others can read, or one that holds no token of 16 characters or more.
      OSError: no such file.
    """
    with Path(path).open("rb") as file:
        status = os.fstat(file.fileno())
        require(stat.S_ISREG(status.st_mode), "A token file must be a regular file.", path=path)
        require(
            not status.st_mode & 0o077,
            "A token file must be readable by its owner alone.",
            hint=f"Make a new token, if others could read this one, and: chmod 600 {path}",
            path=path,
            mode=f"{stat.S_IMODE(status.st_mode):04o}",
        )
        token = file.read(_MAX_BYTES).strip()
    require(
        len(token) >= _MIN_CHARACTERS and all(33 <= one <= 126 for one in token),
        f"A token must have {_MIN_CHARACTERS} printable characters or more, without spaces.",
        hint="Make one by: openssl rand -hex 32",
        path=path,
        num_characters=len(token),
    )
    return token.decode("ascii")


def refusal(request: Request, token: str | None) -> Response | None:
    """Returns the answer to a request that may not change anything; None to one that may.

    A browser sends the header of no page but ours, and asks this server before it does.
    """
    if token is None:
        return error(403, "This collection cannot be changed: serve has no --token_file.")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(given.strip().encode("latin-1"), token.encode("ascii"))
    if scheme.lower() == "bearer" and same:
        return None
    told = {"WWW-Authenticate": "Bearer"}
    return error(401, "This needs the header 'Authorization: Bearer TOKEN'.", **told)
