"""What every request passes: hosts, foreign sites, how many at once; headers for the browser."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

# Pictures that the visitor chose are shown from blob: addresses; nothing comes from elsewhere.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob:; script-src 'self'; "
    "style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Next = Callable[[Request], Awaitable[Response]]


def error(status: int, message: str, **headers: str) -> JSONResponse:
    """Returns an error as the API words it."""
    return JSONResponse({"error": message}, status, headers)


class Gate:
    """Lets requests through, or answers why not.

    A page of another site could point a name of its own at this machine, or send the visitor's
    browser here: the Host must be one that is expected, and no request may come from another site.
    """

    def __init__(self, hosts: Sequence[str], max_requests: int):
        """Keeps the limits.

        Args:
          hosts: names that requests may call this server; "*" allows all.
          max_requests: that are worked on at once; more are answered with 429.
        """
        self._hosts = {host.lower() for host in hosts}
        self._max_requests = max_requests
        self._num_requests = 0

    async def __call__(self, request: Request, following: Next) -> Response:
        """An HTTP middleware."""
        response = await self._answer(request, following)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    async def _answer(self, request: Request, following: Next) -> Response:
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if "*" not in self._hosts and host.lower() not in self._hosts:
            return error(421, "This host name is not served here; see --allowed_hosts.")
        foreign = request.headers.get("sec-fetch-site", "none") in ("cross-site", "same-site")
        # A link to the page itself is harmless.
        if foreign and (request.method != "GET" or request.url.path.startswith("/api/")):
            return error(403, "Requests of other sites are not answered.")
        if self._num_requests >= self._max_requests:
            return error(429, "Too many requests at once; try again.", **{"Retry-After": "1"})
        self._num_requests += 1
        try:
            return await following(request)
        finally:
            self._num_requests -= 1
