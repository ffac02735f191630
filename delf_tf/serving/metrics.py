"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from fastapi import FastAPI
from fastapi.responses import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


class Meter:
    """Counts an application's requests: path, status and seconds, and pictures refused."""

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry, upload_paths: Collection[str]):
        """Makes the counters.

        Args:
          app: the application.
          registry: receives them.
          upload_paths: that pictures are sent to.
        """
        self._app, self._upload_paths = app, upload_paths
        self._requests = Counter(
            "delf_tf_requests",
            "Requests that were answered.",
            ["path", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "delf_tf_request_seconds",
            "From the head of a request to the end of its answer.",
            ["path"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._refused = Counter(
            "delf_tf_uploads_refused",
            "Pictures that were sent and refused.",
            ["status"],
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_see)
        finally:
            # The route, not what the client asked for: names would be without number.
            path = getattr(scope.get("route"), "path", "other")
            self._requests.labels(path, status).inc()
            self._seconds.labels(path).observe(time.perf_counter() - start)
            if status >= 400 and scope["method"] == "POST" and scope["path"] in self._upload_paths:
                self._refused.labels(status).inc()


def add_metrics(
    app: FastAPI, num_images: Callable[[], int], *, upload_paths: Collection[str]
) -> None:
    """Counts an application's requests, those that its other middleware refuses as well.

    Args:
      app: the application, complete but for this.
      num_images: of the collection.
      upload_paths: that pictures are sent to.
    """
    registry = CollectorRegistry()
    gauge = Gauge("delf_tf_collection_images", "Images of the collection.", registry=registry)
    gauge.set_function(num_images)
    app.add_middleware(Meter, registry=registry, upload_paths=upload_paths)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
