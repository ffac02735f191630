"""The HTTP application: a page, a JSON API, and its description."""

from __future__ import annotations

import asyncio
import functools
import importlib.resources
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

import delf_tf
from delf_tf.checks import InputError
from delf_tf.datasets import images
from delf_tf.serving.limits import Gate, Uploads, error
from delf_tf.serving.service import Answer, Hit, RetrievalService, UnknownItemError
from delf_tf.types import Box, ImageRef

_SIDES = {"small": 200, "large": 800}
_STATIC = {
    "page.html": "text/html",
    "page.js": "text/javascript",
    "matches.js": "text/javascript",
    "page.css": "text/css",
    "api.html": "text/html",
    "api.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_CACHED_THUMBNAILS = 2048
_UPLOAD_PATH = "/api/query"

_BOX_HELP = "y0,x0,y1,x1 in pixels of the upright image; not given: all of it"
BoxText = Annotated[str | None, Query(description=_BOX_HELP, max_length=80)]


class HitModel(BaseModel):
    """One result."""

    number: int
    id: str
    similarity: float
    num_inliers: int | None


class AnswerModel(BaseModel):
    """Both modes' results and what they took."""

    token: str
    height: int
    width: int
    box: tuple[float, float, float, float]
    single_stage: list[HitModel]
    two_stage: list[HitModel] | None
    seconds: dict[str, float]


class ItemModel(BaseModel):
    """An image of the collection."""

    number: int
    id: str


class CollectionModel(BaseModel):
    """A page of the collection."""

    name: str
    num_images: int
    two_stages: bool
    images: list[ItemModel]


class MatchesModel(BaseModel):
    """A verified pair: [y, x] pixels of either image, one row a match."""

    query_points: list[tuple[float, float]]
    database_points: list[tuple[float, float]]
    inliers: list[bool]
    num_inliers: int
    database_height: int


class ErrorModel(BaseModel):
    """Why a request was refused."""

    error: str


def create_app(
    service: RetrievalService,
    *,
    name: str = "collection",
    allowed_hosts: Sequence[str] = ("127.0.0.1", "localhost", "::1"),
    max_upload_bytes: int = 20_000_000,
    max_pixels: int = 50_000_000,
    max_queries: int = 4,
    max_requests: int = 64,
    max_uploads: int = 8,
    upload_timeout_s: float = 30.0,
) -> FastAPI:
    """Makes the application.

    Args:
      service: answers.
      name: of the collection, shown.
      allowed_hosts: names that a browser may reach it by; "*" allows all.
      max_upload_bytes: of a picture; larger ones are refused with 413 as soon as that is known.
      max_pixels: of a picture, be it uploaded or the collection's; larger ones are not decoded.
      max_queries: that wait or are worked on; more are answered with 429.
      max_requests: of all other kinds at once.
      max_uploads: that are being received; one more ends the one that has taken longest.
      upload_timeout_s: seconds that a picture may take to arrive.
    """
    app = FastAPI(
        title="delf_tf",
        version=delf_tf.__version__,
        description="Find the same place or object in a collection of pictures.",
        docs_url=None,
        redoc_url=None,
        responses={code: {"model": ErrorModel} for code in (400, 404, 422, 429)},
    )
    app.add_middleware(
        Gate, hosts=allowed_hosts, max_requests=max_requests, uncounted=[_UPLOAD_PATH]
    )
    uploads = Uploads(max_uploads, max_upload_bytes, upload_timeout_s)
    _add_errors(app)
    _add_pages(app)
    _add_collection(app, service, name, max_pixels)
    _add_queries(app, service, uploads, max_pixels, max_queries)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(InputError)
    async def refused(_: Request, fault: InputError) -> Response:
        return error(404 if isinstance(fault, UnknownItemError) else 400, str(fault))

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
    def thumbnail(number: int, size: str) -> bytes:
        ref = service.ref(number)
        try:
            return images.to_jpeg(images.read_image(ref, max_pixels=max_pixels), _SIDES[size])
        except InputError:
            raise _gone() from None

    @app.get("/api/collection", tags=["collection"])
    def collection(
        offset: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, le=200)] = 48
    ) -> CollectionModel:
        """Lists the collection's images, page by page."""
        shown = enumerate(service.refs[offset : offset + limit], offset)
        items = [ItemModel(number=number, id=ref.id) for number, ref in shown]
        return CollectionModel(
            name=name,
            num_images=len(service.refs),
            two_stages=service.has_two_stages,
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
        headers = {"Cache-Control": "private, max-age=3600"}
        return Response(thumbnail(number, size), media_type="image/jpeg", headers=headers)


def _add_queries(
    app: FastAPI,
    service: RetrievalService,
    uploads: Uploads,
    max_pixels: int,
    max_queries: int,
) -> None:
    waiting = asyncio.Semaphore(max_queries)

    async def limited(work: Callable[[], Answer]) -> Any:
        if waiting.locked():
            return error(429, "Too many queries at once; try again.", **{"Retry-After": "1"})
        async with waiting:
            return _answer_model(await run_in_threadpool(work))

    upload = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}

    @app.post(
        _UPLOAD_PATH,
        tags=["query"],
        response_model=AnswerModel,
        responses={413: {"model": ErrorModel}},
        openapi_extra={"requestBody": {**upload, "required": True}},
    )
    async def query(request: Request, box: BoxText = None) -> Any:
        """Searches with a picture, the body of the request: JPEG, PNG, WebP, GIF or BMP."""
        chosen = _box(box)
        body = await uploads.read(request)
        if isinstance(body, Response):
            return body

        def work() -> Answer:
            return service.query(images.read_image_bytes(body, max_pixels=max_pixels), box=chosen)

        return await limited(work)

    @app.post("/api/images/{number}/query", tags=["query"], response_model=AnswerModel)
    async def query_image(number: int, box: BoxText = None) -> Any:
        """Searches with an image of the collection, which is left out of the results."""
        chosen, ref = _box(box), service.ref(number)

        def work() -> Answer:
            try:
                image = images.read_image(ref, max_pixels=max_pixels)
            except InputError:
                raise _gone() from None
            return service.query(image, box=chosen, number=number)

        return await limited(work)

    @app.get("/api/queries/{token}/matches/{number}", tags=["query"])
    def matches(token: str, number: int) -> MatchesModel:
        """Gives the matched points of an earlier query and an image of its verified head."""
        found = service.matches(token, number)
        return MatchesModel(
            query_points=found.query_points.tolist(),
            database_points=found.database_points.tolist(),
            inliers=found.inliers.tolist(),
            num_inliers=int(found.inliers.sum()),
            database_height=_height(service.ref(number)),
        )


def _height(ref: ImageRef) -> int:
    try:
        return images.image_size(ref)[0]
    except InputError:
        raise _gone() from None


def _gone() -> UnknownItemError:
    """Without the reason, which names a path of this machine."""
    return UnknownItemError("This image cannot be read any more.")


def _box(text: str | None) -> Box | None:
    if text is None:
        return None
    try:
        y0, x0, y1, x1 = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError("box must be four numbers: y0,x0,y1,x1.") from None
    if not all(abs(edge) < 1e9 for edge in (y0, x0, y1, x1)):
        raise InputError("box must be four numbers of pixels.")
    return y0, x0, y1, x1


def _answer_model(answer: Answer) -> AnswerModel:
    def models(hits: list[Hit]) -> list[HitModel]:
        return [HitModel(**hit._asdict()) for hit in hits]

    fields = answer._asdict()
    fields["single_stage"] = models(answer.single_stage)
    fields["two_stage"] = None if answer.two_stage is None else models(answer.two_stage)
    return AnswerModel(**fields)
