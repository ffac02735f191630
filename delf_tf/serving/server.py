"""Serves an application by uvicorn, with the limits on connections that uvicorn lacks.

uvicorn gives a connection any time to send a request's head, takes connections until the process
has no more files to open, and waits for uploads before it ends.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

try:
    import resource
except ImportError:  # Windows has none.
    resource = None  # type: ignore[assignment]

HEAD_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 512
# Work that goes on when the server is told to end.
_SHUTDOWN_TIMEOUT_S = 10


class Connection(H11Protocol):
    """A connection that must ask for something in time, and makes room for others."""

    def __init__(self, *, max_connections: int, head_timeout_s: float, **uvicorn_arguments: Any):
        """Keeps the limits; see `run`."""
        super().__init__(**uvicorn_arguments)
        self._max_connections, self._head_timeout_s = max_connections, head_timeout_s
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a request; at the limit, the one that has waited longest is closed."""
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self._max_connections:
            # A whole head comes within milliseconds: an honest client is hardly ever the oldest.
            waiting = [one for one in self.connections if one._deadline is not None]
            oldest = min(waiting, key=lambda one: one._deadline.when())
            oldest._forget()
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the waiting."""
        super().connection_lost(exc)
        self._forget()

    def data_received(self, data: bytes) -> None:
        """Takes bytes; more of a head that is not whole give it no more time."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Begins to wait for the next request."""
        super().on_response_complete()
        self._watch()

    def shutdown(self) -> None:
        """Ends the connection, or lets a request be answered unless it is still being sent."""
        super().shutdown()
        if self.cycle is not None and self.cycle.more_body:
            self.transport.abort()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self._head_timeout_s, self.transport.close)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def run(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    on_ready: Callable[[str], None],
    head_timeout_s: float = HEAD_TIMEOUT_S,
    max_connections: int | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
      app: the application.
      host: name or address to listen at.
      port: likewise; 0 for any that is free.
      on_ready: is given the address, http://…, as soon as requests to it are kept for the server.
      head_timeout_s: seconds that a connection may take to send the head of a request.
      max_connections: at once; None for 512, or half of the files that the process may open.

    Raises:
      OSError: the address is taken, or not one of this machine.
    """
    max_connections = max_connections or default_max_connections()
    protocol = functools.partial(
        Connection, max_connections=max_connections, head_timeout_s=head_timeout_s
    )
    options = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol,  # type: ignore[arg-type]
        ws="none",
        log_level="warning",
        server_header=False,
        # asyncio takes so many connections before the first of them can make room for another.
        backlog=max(1, max_connections // 8),
        timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_S,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        # From here on requests wait for the server, whose address is now known.
        listening.listen()
        shown = f"[{host}]" if ":" in host else host
        on_ready(f"http://{shown}:{listening.getsockname()[1]}")
        uvicorn.Server(options).run(sockets=[listening])


def default_max_connections() -> int:
    """Returns a number of connections that leaves files for everything else."""
    if resource is None:
        return MAX_CONNECTIONS
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, files // 2)
