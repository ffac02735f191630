"""Limits of requests: hosts, origins, number at once, uploads; and security headers.

Connections are limited by `server`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Pictures that the visitor chose are shown from blob: addresses; nothing comes from elsewhere.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob:; script-src 'self'; "
    "style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_RETRY = {"Retry-After": "1"}


def error(status: int, message: str, **headers: str) -> JSONResponse:
    """Returns an error as the API words it."""
    return JSONResponse({"error": message}, status, headers)


class Gate:
    """Lets requests through to an application, or answers why not.

    A page of another site could point a name of its own at this machine, or send the visitor's
    browser here: the Host must be one that is expected, and no request may come from another site.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Sequence[str], max_requests: int, uncounted: Sequence[str]
    ):
        """Keeps the limits.

        Args:
          app: the application.
          hosts: names that requests may call this server; "*" allows all.
          max_requests: that are worked on at once; more are answered with 429.
          uncounted: paths whose requests have a limit of their own.
        """
        self._app, self._uncounted = app, frozenset(uncounted)
        self._hosts = {host.lower() for host in hosts}
        self._max_requests = max_requests
        self._num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        counted = int(scope["path"] not in self._uncounted)
        answer = self._refusal(Request(scope), counted) or self._app
        self._num_requests += counted
        try:
            await answer(scope, receive, send_with_headers)
        finally:
            self._num_requests -= counted

    def _refusal(self, request: Request, counted: int) -> Response | None:
        if "*" not in self._hosts and _host(request) not in self._hosts:
            return error(421, "This host name is not served here; see --allowed_hosts.")
        foreign = request.headers.get("sec-fetch-site", "none") in ("cross-site", "same-site")
        # A link to the page itself is harmless.
        if foreign and (request.method != "GET" or request.url.path.startswith("/api/")):
            return error(403, "Requests of other sites are not answered.")
        if counted and self._num_requests >= self._max_requests:
            return error(429, "Too many requests at once; try again.", **_RETRY)
        return None


class Uploads:
    """Reads the bodies of requests: so many at once, so large, in so much time.

    One more than `max_uploads` ends the oldest, so that slow senders cannot block the others.
    """

    def __init__(self, max_uploads: int, max_bytes: int, timeout_s: float):
        """Keeps the limits."""
        self._max_uploads, self._max_bytes, self._timeout_s = max_uploads, max_bytes, timeout_s
        # In the order of their beginning.
        self._reading: dict[asyncio.Task[bytes | None], None] = {}

    async def read(self, request: Request) -> bytes | Response:
        """Returns a request's body, or the answer to one that is too large, too slow or cut off."""
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            return self._too_large()
        if len(self._reading) >= self._max_uploads:
            oldest = next(iter(self._reading))
            del self._reading[oldest]
            oldest.cancel()
        task = asyncio.ensure_future(self._read(request))
        self._reading[task] = None
        try:
            await asyncio.wait([task], timeout=self._timeout_s)
        finally:
            self._reading.pop(task, None)
            late = task.cancel()
        if late:
            return error(408, f"A picture must arrive within {self._timeout_s:g} s.")
        if task.cancelled():
            return error(429, "Too many uploads at once; try again.", **_RETRY)
        if isinstance(task.exception(), ClientDisconnect):
            return error(400, "The picture ended before its end.")
        body = task.result()
        return self._too_large() if body is None else body

    async def _read(self, request: Request) -> bytes | None:
        body = bytearray()
        async for chunk in request.stream():
            body.extend(chunk)
            if len(body) > self._max_bytes:
                return None
        return bytes(body)

    def _too_large(self) -> Response:
        return error(413, f"A picture must have at most {self._max_bytes} bytes.")


class Turns:
    """Lets so much work wait or be worked on at once."""

    def __init__(self, most: int):
        """Keeps the limit."""
        self._free = asyncio.Semaphore(most)

    async def run(self, work: Callable[[], Any]) -> Any:
        """Returns what `work` gives in another thread, or the answer to one too many."""
        if self._free.locked():
            return error(429, "Too many of these at once; try again.", **_RETRY)
        async with self._free:
            return await run_in_threadpool(work)


def _host(request: Request) -> str:
    try:
        return (urlsplit(f"//{request.headers.get('host', '')}").hostname or "").lower()
    except ValueError:  # "[" begins an IPv6 address.
        return ""
