"""The part of the HTTP application that changes the collection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol

import numpy as np
from absl import logging
from fastapi import FastAPI, Query, Request
from fastapi.responses import Response

from delf_tf.checks import InputError, printable, require
from delf_tf.datasets import images
from delf_tf.datasets.folder import IMAGE_EXTENSIONS
from delf_tf.serving import access
from delf_tf.serving.answers import ConflictError, UnknownItemError
from delf_tf.serving.limits import Turns, Uploads
from delf_tf.serving.schemas import ChangedModel, ErrorModel
from delf_tf.serving.service import RetrievalService

UPLOAD_PATH = "/api/images"
_MAX_NAME_BYTES, _MAX_PART_BYTES = 1000, 200
# That wait or are worked on; they are done one after the other.
_MAX_UPDATES = 4


class Changes(Protocol):
    """Changes the collection, whole or not at all, and the service with it."""

    def add(self, name: str, content: bytes, image: np.ndarray) -> None:
        """Adds an image.

        Args:
          name: its id.
          content: of its file.
          image: uint8 RGB [H, W, 3], what `content` shows.

        Raises:
          ImageError: it is none that can be used.
          ConflictError: one of this name is there.
          InputError: anything else that is in the way.
        """

    def remove(self, name: str) -> None:
        """Takes an image out.

        Raises:
          UnknownItemError: there is none.
          ConflictError: it is the last one.
          InputError: anything else that is in the way.
        """


def add_updates(
    app: FastAPI,
    service: RetrievalService,
    changes: Changes | None,
    *,
    token: str | None,
    uploads: Uploads,
    max_pixels: int,
) -> None:
    """Adds the paths that change the collection.

    Args:
      app: the application.
      service: answers.
      changes: does it; None: nobody may.
      token: of those who may; None: nobody.
      uploads: reads pictures.
      max_pixels: of a picture; larger ones are refused.
    """
    turns = Turns(_MAX_UPDATES)
    secret = None if changes is None else token

    async def changed(name: str, work: Callable[[], None], status: int) -> Any:
        def told() -> Response:
            _explained(work)
            content = ChangedModel(id=name, num_images=len(service.refs))
            return Response(content.model_dump_json(), status, media_type="application/json")

        return await turns.run(told)

    upload = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
    refusals = {code: {"model": ErrorModel} for code in (401, 403, 409, 413)}

    @app.post(
        UPLOAD_PATH,
        tags=["changes"],
        status_code=201,
        response_model=ChangedModel,
        responses=refusals,
        openapi_extra={"requestBody": {**upload, "required": True}},
    )
    async def add(
        request: Request,
        name: Annotated[str, Query(description="its id: a path below the folder of images")],
    ) -> Any:
        """Adds a picture, the body of the request, to the collection and its folder."""
        refused = access.refusal(request, secret)
        if refused is not None:
            return refused
        _require_name(name)
        body = await uploads.read(request)
        if isinstance(body, Response):
            return body

        def work() -> None:
            changes.add(name, body, images.read_image_bytes(body, max_pixels=max_pixels))

        return await changed(name, work, 201)

    @app.delete(
        "/api/images/{name:path}",
        tags=["changes"],
        response_model=ChangedModel,
        responses=refusals,
    )
    async def remove(request: Request, name: str) -> Any:
        """Takes an image, named by its id, out of the collection and deletes its file."""
        refused = access.refusal(request, secret)
        if refused is not None:
            return refused
        return await changed(name, lambda: changes.remove(name), 200)


def _explained(work: Callable[[], None]) -> None:
    """Runs an update; the reason of a failure goes to the log alone, as it may name paths."""
    try:
        work()
    except (ConflictError, images.ImageError, UnknownItemError):
        raise
    except (InputError, OSError) as fault:
        logging.error("The collection was not changed: %s", fault)
        raise ConflictError(
            "The collection is as it was: another update was in the way, or its folders cannot be "
            "written. Try again; the server's log says more."
        ) from None


def _require_name(name: str) -> None:
    """Requires an id that names a file below the folder of images on any system.

    Raises:
      InputError: it does not.
    """
    parts = name.split("/")
    is_text = printable(name) == name and "\\" not in name
    fits = is_text and len(name.encode()) <= _MAX_NAME_BYTES
    require(
        fits
        and all(part and part[0] != "." and part == part.strip() for part in parts)
        and all(len(part.encode()) <= _MAX_PART_BYTES for part in parts)
        and name.lower().endswith(IMAGE_EXTENSIONS),
        "A name must be a path below the folder of images: parts without control characters, of at "
        f"most {_MAX_PART_BYTES} bytes, none with a dot before it, and one of the endings "
        f"{', '.join(IMAGE_EXTENSIONS)}.",
        name=printable(name),
    )
