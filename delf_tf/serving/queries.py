"""The part of the HTTP application that searches."""

from __future__ import annotations

import csv
import io
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import Response

from delf_tf.checks import InputError, printable
from delf_tf.datasets import images
from delf_tf.serving.answers import Answer, Choices, UnknownItemError
from delf_tf.serving.limits import Turns, Uploads
from delf_tf.serving.schemas import ErrorModel, MatchesModel
from delf_tf.serving.service import MAX_PICTURES, RetrievalService
from delf_tf.types import Box, ImageRef

UPLOAD_PATH = "/api/query"
MAX_RESULTS = 200
# What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

_BOX_HELP = "y0,x0,y1,x1 in pixels of the upright image; not given: all of it"
BoxText = Annotated[str | None, Query(description=_BOX_HELP, max_length=80)]
_UPLOAD = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}


async def _choices(
    num_results: Annotated[int, Query(ge=1, le=MAX_RESULTS, description="of each mode")] = 24,
    method: Annotated[
        str | None, Query(max_length=40, description="of re-ranking; one of the collection's")
    ] = None,
    combine: Annotated[
        Literal["mean", "max"], Query(description="what several pictures' similarities make")
    ] = "mean",
) -> Choices:
    return Choices(num_results, method, combine)


Chosen = Annotated[Choices, Depends(_choices)]


def add_queries(
    app: FastAPI, service: RetrievalService, uploads: Uploads, turns: Turns, max_pixels: int
) -> None:
    """Adds the paths that search.

    Args:
      app: the application.
      service: answers.
      uploads: reads pictures.
      turns: limits what is worked on.
      max_pixels: of a picture; larger ones are not decoded.
    """

    @app.post(
        UPLOAD_PATH,
        tags=["query"],
        response_model=Answer,
        responses={413: {"model": ErrorModel}},
        openapi_extra={"requestBody": {**_UPLOAD, "required": True}},
    )
    async def query(request: Request, choices: Chosen, box: BoxText = None) -> Any:
        """Searches with a picture, the body of the request: JPEG, PNG, WebP, GIF or BMP."""
        chosen = _box(box)
        body = await uploads.read(request)
        if isinstance(body, Response):
            return body

        def work() -> Answer:
            image = images.read_image_bytes(body, max_pixels=max_pixels)
            return service.query(image, box=chosen, choices=choices)

        return await turns.run(work)

    @app.post("/api/images/{number}/query", tags=["query"], response_model=Answer)
    async def query_image(number: int, choices: Chosen, box: BoxText = None) -> Any:
        """Searches with an image of the collection, which is left out of the results."""
        chosen, ref = _box(box), service.ref(number)

        def work() -> Answer:
            try:
                image = images.read_image(ref, max_pixels=max_pixels)
            except InputError:
                raise gone() from None
            return service.query(image, box=chosen, number=number, choices=choices)

        return await turns.run(work)

    @app.post("/api/search", tags=["query"], response_model=Answer)
    async def search(
        choices: Chosen,
        token: Annotated[list[str], Query(max_length=MAX_PICTURES, description="of a query")],
    ) -> Any:
        """Searches again with the pictures of earlier queries, several of them as one query."""
        return await turns.run(lambda: service.search(token, choices))

    @app.get("/api/queries/{token}/matches/{number}", tags=["query"])
    def matches(token: str, number: int) -> MatchesModel:
        """Gives the matched points of an earlier query and an image of its verified head."""
        found = service.matches(token, number)
        return MatchesModel.of(found, _height(service.ref(number)))

    @app.get(
        "/api/queries/{token}/results.csv",
        tags=["query"],
        response_class=Response,
        responses={200: {"content": {"text/csv": {}}}},
    )
    def results(token: str) -> Response:
        """Gives the results of an earlier query as a table."""
        headers = {"Content-Disposition": 'attachment; filename="results.csv"'}
        return Response(
            results_table(service.answer(token)), media_type="text/csv", headers=headers
        )


def results_table(answer: Answer) -> str:
    """Returns an answer as CSV.

    A name that a spreadsheet would take for a formula has an apostrophe before it, and control
    characters are escaped.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["stages", "rank", "image", "similarity", "inliers"])
    for stages, hits in ((1, answer.single_stage), (2, answer.two_stage or [])):
        for rank, hit in enumerate(hits, 1):
            name = "'" * hit.id.startswith(_FORMULA) + printable(hit.id)
            writer.writerow([stages, rank, name, f"{hit.similarity:.6f}", hit.num_inliers])
    return text.getvalue()


def gone() -> UnknownItemError:
    """Returns an error without its reason, which would name a path of this machine."""
    return UnknownItemError("This image cannot be read any more.")


def _height(ref: ImageRef) -> int:
    try:
        return images.image_size(ref)[0]
    except InputError:
        raise gone() from None


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
