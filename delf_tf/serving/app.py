"""The HTTP application: a page, a JSON API, and its description."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

import delf_tf
from delf_tf.checks import InputError
from delf_tf.datasets import images
from delf_tf.serving import queries, updates
from delf_tf.serving.answers import ConflictError, UnknownItemError
from delf_tf.serving.limits import Gate, Turns, Uploads, error
from delf_tf.serving.metrics import add_metrics
from delf_tf.serving.schemas import CollectionModel, ErrorModel, ItemModel
from delf_tf.serving.service import RetrievalService
from delf_tf.types import ImageRef

_SIDES = {"small": 200, "large": 800}
_STATIC = {
    "page.html": "text/html",
    "page.js": "text/javascript",
    "box.js": "text/javascript",
    "matches.js": "text/javascript",
    "page.css": "text/css",
    "api.html": "text/html",
    "api.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_CACHED_THUMBNAILS = 2048


def create_app(
    service: RetrievalService,
    *,
    name: str = "collection",
    allowed_hosts: Sequence[str] = (),
    max_upload_bytes: int = 20_000_000,
    max_pixels: int = 50_000_000,
    max_queries: int = 4,
    max_requests: int = 64,
    max_uploads: int = 8,
    upload_timeout_s: float = 30.0,
    changes: updates.Changes | None = None,
    token: str | None = None,
) -> FastAPI:
    """Makes the application.

    Args:
      service: answers.
      name: of the collection, shown.
      allowed_hosts: names that a browser may reach it by, beside this machine's; "*" allows all.
      max_upload_bytes: of a picture; larger ones are refused with 413 as soon as that is known.
      max_pixels: of a picture, be it uploaded or the collection's; larger ones are not decoded.
      max_queries: that wait or are worked on; more are answered with 429.
      max_requests: of all other kinds at once.
      max_uploads: that are being received; one more ends the one that has taken longest.
      upload_timeout_s: seconds that a picture may take to arrive.
      changes: changes the collection; None: nobody may.
      token: of those who may; None: nobody.
    """
    app = FastAPI(
        title="delf_tf",
        version=delf_tf.__version__,
        description="Find the same place or object in a collection of pictures.",
        docs_url=None,
        redoc_url=None,
        responses={code: {"model": ErrorModel} for code in (400, 404, 422, 429)},
    )
    upload_paths = (queries.UPLOAD_PATH, updates.UPLOAD_PATH)
    app.add_middleware(
        Gate,
        hosts=(*_LOOPBACK, *allowed_hosts),
        max_requests=max_requests,
        uncounted=upload_paths,
    )
    add_metrics(app, lambda: len(service.refs), upload_paths=upload_paths)
    uploads = Uploads(max_uploads, max_upload_bytes, upload_timeout_s)
    _add_errors(app)
    _add_pages(app)
    _add_collection(app, service, name, max_pixels)
    queries.add_queries(app, service, uploads, Turns(max_queries), max_pixels)
    updates.add_updates(app, service, changes, token=token, uploads=uploads, max_pixels=max_pixels)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(InputError)
    async def refused(_: Request, fault: InputError) -> Response:
        statuses = {UnknownItemError: 404, ConflictError: 409}
        return error(statuses.get(type(fault), 400), str(fault))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, fault: RequestValidationError) -> Response:
        told = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in fault.errors())
        return error(422, told)

    @app.exception_handler(HTTPException)
    async def other(_: Request, fault: HTTPException) -> Response:
        return error(fault.status_code, str(fault.detail))


def _add_pages(app: FastAPI) -> None:
    folder = importlib.resources.files("delf_tf.serving") / "static"
    contents = {name: (folder / name).read_bytes() for name in _STATIC}

    def page(name: str) -> Callable[[], Response]:
        return lambda: Response(contents[name], media_type=_STATIC[name])

    paths = {"/": "page.html", "/api": "api.html"}
    for path, name in {**paths, **{f"/static/{name}": name for name in _STATIC}}.items():
        app.get(path, include_in_schema=False)(page(name))


def _add_collection(app: FastAPI, service: RetrievalService, name: str, max_pixels: int) -> None:
    @functools.lru_cache(maxsize=_CACHED_THUMBNAILS)
    def thumbnail(number: int, ref: ImageRef, size: str) -> bytes:
        # A file that changes gets another number.
        del number
        try:
            return images.to_jpeg(images.read_image(ref, max_pixels=max_pixels), _SIDES[size])
        except InputError:
            raise queries.gone() from None

    @app.get("/api/collection", tags=["collection"])
    def collection(
        offset: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, le=200)] = 48
    ) -> CollectionModel:
        """Lists the collection's images, page by page."""
        shown = service.page(offset, limit)
        items = [ItemModel(number=number, id=ref.id) for number, ref in shown]
        return CollectionModel(
            name=name,
            num_images=len(service.refs),
            two_stages=bool(service.methods),
            methods=service.methods,
            images=items,
        )

    @app.get(
        "/api/images/{number}/thumbnail",
        tags=["collection"],
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}},
    )
    def show(number: int, size: Literal["small", "large"] = "small") -> Response:
        """Gives a picture of at most 200 (small) or 800 (large) pixels a side."""
        # A server that starts again numbers the images anew.
        headers = {"Cache-Control": "private, max-age=60"}
        content = thumbnail(number, service.ref(number), size)
        return Response(content, media_type="image/jpeg", headers=headers)
