"""Imports Milvus' client, and where the environment says that a server is."""

from __future__ import annotations

import contextlib
import importlib
import logging.config
import os
from collections.abc import Iterator
from typing import Any

from delf_tf.checks import invalid, require

URI_VARIABLE, TOKEN_VARIABLE = "MILVUS_URI", "MILVUS_TOKEN"


def import_pymilvus() -> Any:
    """Returns the module.

    Raises:
      InputError: it is not installed, or the environment's address is none.
    """
    # pymilvus reads it as well, when it is imported, and takes no file there.
    require(
        "://" in os.environ.get(URI_VARIABLE, "://"),
        f"{URI_VARIABLE} must be an address, http://HOST:19530.",
        uri=os.environ.get(URI_VARIABLE),
    )
    try:
        with _logging_as_it_is():
            found = importlib.import_module("pymilvus")
    except ImportError as error:
        raise invalid(
            "An index in Milvus must have pymilvus, which cannot be imported.",
            hint="pip install 'delf_tf[databases]'.",
            fault=str(error),
        ) from None
    # Faults are raised as well, and told in one line; the embedded engine logs, with a traceback,
    # each newer call that it does not know and the client then does without.
    for name in ("pymilvus", "milvus_lite", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return found


@contextlib.contextmanager
def _logging_as_it_is() -> Iterator[None]:
    """Keeps pymilvus, while it is imported, from closing every log handler of the process."""
    configure = logging.config.dictConfig
    logging.config.dictConfig = lambda config: None
    try:
        yield
    finally:
        logging.config.dictConfig = configure
