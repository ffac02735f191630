"""Milvus' client: a collection of vectors, in a file (Milvus Lite) or on a server."""

from __future__ import annotations

import contextlib
import importlib
import logging.config
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from delf_tf.checks import invalid, require

URI_VARIABLE, TOKEN_VARIABLE = "MILVUS_URI", "MILVUS_TOKEN"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}", re.ASCII)
_MAX_ID_BYTES = 65535
# The engine's own limit on results a query, and one on what a message may hold.
_MAX_RESULTS = 16384
_RESULTS_A_CALL = 200_000
_VALUES_A_CALL = 1 << 20


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


class EngineCollection:
    """A collection of the engine: rows of a key, an image's id and its vector.

    All methods but the constructor raise InputError where the engine does not answer.

    Attributes:
      uri: path of a Milvus Lite file, or the address of a server.
      name: of the collection.
      engine_index: Milvus' name of an index type.
    """

    def __init__(self, uri: str | None, name: str, engine_index: str = ""):
        """Keeps the address; nothing is asked of the engine yet.

        Raises:
          InputError: no address, a name that Milvus does not take, pymilvus missing.
        """
        uri = uri or os.environ.get(URI_VARIABLE)
        require(
            bool(uri),
            "A Milvus index must have an address.",
            hint=f"Give uri, or set {URI_VARIABLE}.",
        )
        require(
            _NAME.fullmatch(name) is not None,
            "collection must be letters, digits and underscores, and not begin with a digit.",
            collection=name,
        )
        self.uri, self.name = str(uri), name
        self.engine_index = engine_index or ("AUTOINDEX" if self.is_remote else "FLAT")
        self._pymilvus = import_pymilvus()
        self._client: Any = None

    @property
    def is_remote(self) -> bool:
        """Whether it is on a server."""
        return "://" in self.uri

    def exists(self) -> bool:
        """Tells whether the engine has the collection."""
        with self._explained() as client:
            return bool(client.has_collection(self.name))

    def create(self, width: int, *, replace: bool) -> None:
        """Makes the collection, for vectors of a width; one of its name is dropped or refused."""
        with self._explained() as client:
            if client.has_collection(self.name):
                require(
                    replace,
                    "The collection must not exist yet.",
                    hint="Choose another name, or overwrite it.",
                    collection=self.name,
                    uri=self.uri,
                )
                client.drop_collection(self.name)
            types = self._pymilvus.DataType
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("row", types.INT64, is_primary=True)
            schema.add_field("id", types.VARCHAR, max_length=_MAX_ID_BYTES)
            schema.add_field("vector", types.FLOAT_VECTOR, dim=width)
            settings = client.prepare_index_params()
            settings.add_index("vector", index_type=self.engine_index, metric_type="IP")
            client.create_collection(self.name, schema=schema, index_params=settings)

    def send(self, ids: Sequence[str], vectors: np.ndarray, first_key: int) -> None:
        """Writes vectors float32 [N, D] under consecutive keys; what is there is replaced."""
        long = [one for one in ids if len(one.encode("utf-8")) > _MAX_ID_BYTES]
        require(not long, f"Milvus takes ids of {_MAX_ID_BYTES} bytes at most.", ids=long[:1])
        step = max(1, _VALUES_A_CALL // vectors.shape[1])
        with self._explained() as client:
            for start in range(0, len(ids), step):
                rows = [
                    {"row": first_key + row, "id": ids[row], "vector": vectors[row]}
                    for row in range(start, min(start + step, len(ids)))
                ]
                client.upsert(self.name, rows)

    def delete(self, keys: np.ndarray) -> None:
        """Deletes rows by their keys int64 [N]."""
        with self._explained() as client:
            for start in range(0, len(keys), _MAX_RESULTS):
                client.delete(self.name, ids=keys[start : start + _MAX_RESULTS].tolist())

    def delete_from(self, key: int) -> None:
        """Deletes the rows with this key and those above it."""
        with self._explained() as client:
            client.delete(self.name, filter=f"row >= {key}")

    def flush(self) -> None:
        """Makes the engine keep what it was given."""
        with self._explained() as client:
            client.flush(self.name)

    def search(
        self, queries: np.ndarray, k: int, end_key: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields for each query the keys int64 [k'] and inner products float32 [k'] of the best.

        Args:
          queries: float32 [Q, D].
          k: results a query.
          end_key: rows with this key and those above it are left out.
        """
        require(k <= _MAX_RESULTS, f"Milvus gives at most {_MAX_RESULTS} results a query.", k=k)
        batch = max(1, min(_RESULTS_A_CALL // k, _VALUES_A_CALL // max(queries.shape[1], 1)))
        with self._explained() as client:
            for start in range(0, len(queries), batch):
                found = client.search(
                    self.name,
                    data=list(queries[start : start + batch]),
                    limit=k,
                    filter=f"row < {end_key}",
                    output_fields=["row"],
                    search_params={"metric_type": "IP"},
                    consistency_level="Strong",
                )
                for hits in found:
                    keys = np.array([hit["entity"]["row"] for hit in hits], np.int64)
                    yield keys, np.array([hit["distance"] for hit in hits], np.float32)

    def count(self) -> int:
        """Returns the number of rows."""
        with self._explained() as client:
            client.load_collection(self.name)
            counted = client.query(
                self.name, filter="", output_fields=["count(*)"], consistency_level="Strong"
            )
        return int(counted[0]["count(*)"])

    def read(self, keys: Sequence[int]) -> dict[int, tuple[str, np.ndarray]]:
        """Returns by key the ids and vectors of those of the rows that are there."""
        with self._explained() as client:
            found = client.query(
                self.name,
                filter=f"row in {list(keys)}",
                output_fields=["row", "id", "vector"],
                consistency_level="Strong",
            )
        return {int(one["row"]): (one["id"], np.asarray(one["vector"])) for one in found}

    def keys(self) -> Iterator[tuple[str, int]]:
        """Yields the id and the key of every row."""
        with self._explained() as client:
            rows = client.query_iterator(
                self.name,
                batch_size=_MAX_RESULTS,
                output_fields=["row", "id"],
                consistency_level="Strong",
            )
            while batch := rows.next():
                yield from ((one["id"], int(one["row"])) for one in batch)
            rows.close()

    def close(self) -> None:
        """Closes the connection; the next use opens it again."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @contextlib.contextmanager
    def _explained(self) -> Iterator[Any]:
        """Gives the client; turns what the engine raises into an InputError."""
        try:
            if self._client is None:
                token = os.environ.get(TOKEN_VARIABLE, "") if self.is_remote else ""
                self._client = self._pymilvus.MilvusClient(uri=self.uri, token=token)
            yield self._client
        except self._pymilvus.MilvusException as error:
            raise invalid(
                "Milvus must answer.",
                hint="Check the address, and that the collection is still there.",
                uri=self.uri,
                collection=self.name,
                milvus=str(error)[:300],
            ) from None
