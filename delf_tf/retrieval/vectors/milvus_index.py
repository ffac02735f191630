"""Global descriptors in Milvus: embedded in a file (Milvus Lite) or on a cluster, by one client.

The engine holds vectors and ids, so that other programs can search them too; the index's own file
holds the ids in row order, the whitening, the fingerprint, and which collection is meant. The file
never says which server is asked: that is the environment's MILVUS_URI (with MILVUS_TOKEN), so that
a file from a stranger cannot send descriptors or a token elsewhere.
"""

from __future__ import annotations

import contextlib
import importlib
import logging.config
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging as absl_logging

from delf_tf.artifacts import StrPath
from delf_tf.checks import invalid, require
from delf_tf.retrieval.index_file import IndexContent
from delf_tf.retrieval.vectors.vector_index import VectorIndex
from delf_tf.tensor_file import Tensor

URI_VARIABLE, TOKEN_VARIABLE = "MILVUS_URI", "MILVUS_TOKEN"
_COLLECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}", re.ASCII)
_MAX_ID_BYTES = 65535
# The engine's own limit on results a query, and one on what a message may hold.
_MAX_RESULTS = 16384
_RESULTS_A_CALL = 200_000
_VALUES_A_CALL = 1 << 20


class MilvusIndex(VectorIndex):
    """An index whose vectors are kept and searched by Milvus."""

    kind = "milvus"

    def __init__(
        self,
        uri: str | None = None,
        *,
        collection: str = "delf_tf",
        engine_index: str = "",
        replace: bool = False,
        **kwargs: Any,
    ):
        """Makes an empty index; its collection is made by the first `add`.

        Args:
          uri: path of a Milvus Lite file, beside which the index must be saved, or the address of a
            server, "http://host:19530"; None for the environment's MILVUS_URI.
          collection: its name in the engine.
          engine_index: Milvus' name of an index type; empty for FLAT, which is exact, in a file and
            AUTOINDEX on a server.
          replace: drop a collection of that name first; otherwise it is refused.
          **kwargs: of `VectorIndex`, its dtype "float32".

        Raises:
          InputError: no address, a name that Milvus does not take, pymilvus missing.
        """
        super().__init__(**kwargs)
        uri = uri or os.environ.get(URI_VARIABLE)
        require(
            bool(uri),
            "A Milvus index must have an address.",
            hint=f"Give uri, or set {URI_VARIABLE}.",
        )
        require(
            _COLLECTION.fullmatch(collection) is not None,
            "collection must be letters, digits and underscores, and not begin with a digit.",
            collection=collection,
        )
        require(
            self._table.dtype == np.float32,
            "Milvus takes float32 vectors.",
            dtype=self._table.dtype.name,
        )
        self.uri = str(uri)
        self.collection = collection
        self.engine_index = engine_index or ("AUTOINDEX" if self._remote else "FLAT")
        self._replace = replace
        self._width = 0
        # The first and last vectors, by which its collection is known from another of that name.
        self._probe = np.zeros((0, 0), np.float32)
        self._num_rows = 0
        self._pymilvus = _import_pymilvus()
        self._open: Any = None

    @property
    def dim(self) -> int:
        """Width of the descriptors that it takes; 0 while that is open."""
        return super().dim if self.whitening is not None else self._width

    @property
    def _remote(self) -> bool:
        return "://" in self.uri

    def save(self, path: StrPath) -> Path:
        """Writes ids and collection to one file and makes the engine keep what it was given."""
        beside = Path(self.uri).resolve().parent == Path(path).resolve().parent
        require(
            self._remote or beside,
            "An index must be saved in the folder of its Milvus Lite file.",
            uri=self.uri,
            path=Path(path),
        )
        with self._explained() as client:
            if self._width:
                client.flush(self.collection)
        return super().save(path)

    def close(self) -> None:
        """Closes the connection; the next use opens it again."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _add_vectors(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        if not len(vectors):
            return
        long = [one for one in ids if len(one.encode("utf-8")) > _MAX_ID_BYTES]
        require(not long, f"Milvus takes ids of {_MAX_ID_BYTES} bytes at most.", ids=long[:1])
        with self._explained() as client:
            if not self._width:
                self._create(client, vectors.shape[1])
            step = max(1, _VALUES_A_CALL // vectors.shape[1])
            for start in range(0, len(ids), step):
                rows = [
                    {"row": len(self) + row, "id": ids[row], "vector": vectors[row]}
                    for row in range(start, min(start + step, len(ids)))
                ]
                # What an interrupted run left under these rows is replaced.
                client.upsert(self.collection, rows)
            self._num_rows = max(self._num_rows, len(self) + len(ids))
        first = self._probe[0] if len(self) else vectors[0]
        self._probe = np.stack([first, vectors[-1]])

    def _search_vectors(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        require(k <= _MAX_RESULTS, f"Milvus gives at most {_MAX_RESULTS} results a query.", k=k)
        indices = np.full((len(queries), k), -1, np.int64)
        scores = np.zeros((len(queries), k), np.float32)
        batch = max(1, min(_RESULTS_A_CALL // k, _VALUES_A_CALL // max(queries.shape[1], 1)))
        with self._explained() as client:
            for start in range(0, len(queries), batch):
                found = client.search(
                    self.collection,
                    data=list(queries[start : start + batch]),
                    limit=k,
                    # Rows that an interrupted `add` left behind belong to no image.
                    filter=f"row < {len(self)}" if self._num_rows > len(self) else "",
                    output_fields=["row"],
                    search_params={"metric_type": "IP"},
                    consistency_level="Strong",
                )
                for row, hits in enumerate(found, start):
                    got = np.array([hit["entity"]["row"] for hit in hits], np.int64)
                    products = np.array([hit["distance"] for hit in hits], np.float32)
                    order = np.lexsort((got, -products))
                    indices[row, : len(got)] = got[order]
                    scores[row, : len(got)] = products[order]
        return indices, scores

    def _create(self, client: Any, width: int) -> None:
        if client.has_collection(self.collection):
            require(
                self._replace,
                "The collection must not exist yet.",
                hint="Choose another name, or overwrite it.",
                collection=self.collection,
                uri=self.uri,
            )
            client.drop_collection(self.collection)
        types = self._pymilvus.DataType
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", types.INT64, is_primary=True)
        schema.add_field("id", types.VARCHAR, max_length=_MAX_ID_BYTES)
        schema.add_field("vector", types.FLOAT_VECTOR, dim=width)
        settings = client.prepare_index_params()
        settings.add_index("vector", index_type=self.engine_index, metric_type="IP")
        client.create_collection(self.collection, schema=schema, index_params=settings)
        self._width = width

    @contextlib.contextmanager
    def _explained(self) -> Iterator[Any]:
        """Gives the client; turns what the engine raises into an InputError."""
        try:
            if self._open is None:
                token = os.environ.get(TOKEN_VARIABLE, "") if self._remote else ""
                self._open = self._pymilvus.MilvusClient(uri=self.uri, token=token)
            yield self._open
        except self._pymilvus.MilvusException as error:
            raise invalid(
                "Milvus must answer.",
                hint="Check the address, and that the collection is still there.",
                uri=self.uri,
                collection=self.collection,
                milvus=str(error)[:300],
            ) from None

    @classmethod
    def _arguments(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        # The file of a local index is known when the index's own path is.
        return {
            "uri": parameters["file"] or None,
            "collection": parameters["collection"],
            "engine_index": parameters["engine_index"],
        }

    def _parameters(self) -> dict[str, Any]:
        return {
            "file": "" if self._remote else Path(self.uri).name,
            "collection": self.collection,
            "engine_index": self.engine_index,
            "dim": self._width,
        }

    def _arrays(self) -> dict[str, Tensor]:
        return {"probe": self._probe}

    def _restore(self, content: IndexContent) -> None:
        self._width = content.parameter("dim", int)
        file = content.parameter("file", str)
        if file:
            database = content.path.resolve().parent / Path(file).name
            require(database.exists(), "The Milvus Lite file must be there.", path=database)
            self.uri = str(database)
        if not self._width:
            return
        self._probe = np.array(content.array("probe", np.float32, (2, self._width)))
        with self._explained() as client:
            there = client.has_collection(self.collection)
            self._num_rows = self._count(client) if there else 0
            same = self._num_rows >= len(self) and self._holds_probe(client)
        require(
            same,
            "The collection must hold the images that the index was built of.",
            hint="Build the index again.",
            collection=self.collection,
            uri=self.uri,
            num_rows=self._num_rows,
            num_images=len(self),
        )
        if self._num_rows > len(self):
            extra = self._num_rows - len(self)
            absl_logging.warning("%d rows of an interrupted build are passed over.", extra)

    def _count(self, client: Any) -> int:
        client.load_collection(self.collection)
        counted = client.query(
            self.collection, filter="", output_fields=["count(*)"], consistency_level="Strong"
        )
        return int(counted[0]["count(*)"])

    def _holds_probe(self, client: Any) -> bool:
        last = len(self) - 1
        found = client.query(
            self.collection,
            filter=f"row in [0, {last}]",
            output_fields=["row", "id", "vector"],
            consistency_level="Strong",
        )
        held = {int(one["row"]): one for one in found}
        return set(held) == {0, last} and all(
            held[row]["id"] == self._ids[row]
            and np.shape(held[row]["vector"]) == (self._width,)
            and np.allclose(held[row]["vector"], vector, atol=1e-6)
            for row, vector in zip((0, last), self._probe)
        )


def _import_pymilvus() -> Any:
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
