"""Global descriptors in Milvus: embedded in a file (Milvus Lite) or on a cluster, by one client.

The engine holds vectors and ids, so that other programs can search them too; the index's own file
holds the ids in row order and each one's key, the engine's field "row", the whitening, the
fingerprint, and which collection is meant. The file never says which server is asked: that is the
environment's MILVUS_URI (with MILVUS_TOKEN), so that a file from a stranger cannot send descriptors
or a token elsewhere. Without the file a collection is opened by its address, see `open_address`.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging as absl_logging

from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.retrieval.changes import Changes, compare_images
from delf_tf.retrieval.index_file import IndexContent
from delf_tf.retrieval.vectors.milvus_client import EngineCollection
from delf_tf.retrieval.vectors.vector_index import VectorIndex
from delf_tf.tensor_file import Tensor
from delf_tf.types import GlobalDescriptors

_SCHEMES = {"milvus": "http", "milvus+https": "https"}


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
        require(
            self._table.dtype == np.float32,
            "Milvus takes float32 vectors.",
            dtype=self._table.dtype.name,
        )
        self._engine = EngineCollection(uri, collection, engine_index)
        self._replace = replace
        self._width = 0
        # The first and last vectors, by which its collection is known from another of that name.
        self._probe = np.zeros((0, 0), np.float32)
        # By row the engine's key, which grows with each image that comes; and keys to be deleted.
        self._keys = np.zeros(0, np.int64)
        self._gone = np.zeros(0, np.int64)
        # The rows in the order of their keys; searches make it when keys have come.
        self._by_key = np.zeros(0, np.int64)
        self._num_rows = 0

    @property
    def dim(self) -> int:
        """Width of the descriptors that it takes; 0 while that is open."""
        return super().dim if self.whitening is not None else self._width

    def save(self, path: StrPath) -> Path:
        """Writes ids and collection to one file and makes the engine keep what it was given."""
        engine = self._engine
        beside = Path(engine.uri).resolve().parent == Path(path).resolve().parent
        require(
            engine.is_remote or beside,
            "An index must be saved in the folder of its Milvus Lite file.",
            uri=engine.uri,
            path=Path(path),
        )
        if self._width:
            engine.flush()
        super().save(path)
        # Not before the file lacks them: a killed update leaves an index that is whole.
        self._delete()
        return Path(path)

    def follow(
        self,
        ids: Sequence[str],
        contents: Mapping[str, str],
        blocks: Iterable[tuple[Sequence[str], np.ndarray]],
    ) -> Changes:
        """Makes it hold other images, and tells the difference; `save` then takes out what is gone.

        Only images that are new, or whose files' contents are known to have changed, are sent.

        Args:
          ids: all N images, in the rows' order.
          contents: by id which file's content it is, where that is known.
          blocks: (n ids, float32 [n, D]) of them all, in that order, before whitening.

        Raises:
          InputError: no images, descriptors of another width.
        """
        require(bool(ids), "An index must be built of at least one image.", num_images=len(ids))
        changes = compare_images(self._ids, self.contents, ids, contents)
        keys = dict(zip(self._ids, self._keys.tolist()))
        sent = changes.added | changes.changed
        next_key, ends = self._next_key, list[np.ndarray]()
        for some, vectors in blocks:
            found = self._prepare("descriptors", GlobalDescriptors(tuple(some), vectors), False)
            ends = [ends[0] if ends else found[0], found[-1]]
            rows = [row for row, one in enumerate(some) if one in sent]
            names = [some[row] for row in rows]
            self._send(names, found[rows], next_key)
            keys.update(zip(names, range(next_key, next_key + len(rows))))
            next_key += len(rows)
        after = np.array([keys[one] for one in ids], np.int64)
        self._gone = np.union1d(self._gone, np.setdiff1d(self._keys, after))
        self._ids, self._known, self._keys = list(ids), set(ids), after
        self._found_ids, self._by_key, self.contents = (), self._by_key[:0], dict(contents)
        self._probe = np.stack(ends)
        return changes

    def close(self) -> None:
        """Closes the connection; the next use opens it again."""
        self._engine.close()

    @property
    def _next_key(self) -> int:
        return int(self._keys.max()) + 1 if len(self._keys) else 0

    def _add_vectors(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        if not len(vectors):
            return
        start = self._next_key
        self._send(ids, vectors, start)
        self._keys = np.append(self._keys, np.arange(start, start + len(ids)))
        first = self._probe[0] if len(self) else vectors[0]
        self._probe = np.stack([first, vectors[-1]])

    def _send(self, ids: Sequence[str], vectors: np.ndarray, first_key: int) -> None:
        """Gives the engine vectors under consecutive keys; an interrupted run's are replaced."""
        if not self._width:
            self._width = vectors.shape[1]
            self._engine.create(self._width, replace=self._replace)
        self._engine.send(ids, vectors, first_key)
        self._num_rows = max(self._num_rows, first_key + len(ids))

    def _delete(self) -> None:
        """Deletes the images that are gone, and what interrupted runs left behind."""
        self._engine.delete(self._gone)
        if self._num_rows > len(self):
            self._engine.delete_from(self._next_key)
            self._num_rows = len(self)

    def _search_vectors(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        indices = np.full((len(queries), k), -1, np.int64)
        scores = np.zeros((len(queries), k), np.float32)
        # Without what an interrupted run left behind, or another process has added since.
        found = self._engine.search(queries, k, self._next_key)
        for row, (keys, products) in enumerate(found):
            rows = self._rows_of(keys)
            order = np.lexsort((rows, -products))
            order = order[rows[order] >= 0]
            indices[row, : len(order)] = rows[order]
            scores[row, : len(order)] = products[order]
        return indices, scores

    def _rows_of(self, keys: np.ndarray) -> np.ndarray:
        """Returns the rows, int64 [N], of the engine's keys; -1 where there is none."""
        if len(self._by_key) != len(self._keys):
            self._by_key = np.argsort(self._keys)
        places = np.searchsorted(self._keys, keys, sorter=self._by_key)
        rows = self._by_key[np.minimum(places, len(self._keys) - 1)]
        return np.where(self._keys[rows] == keys, rows, -1)

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
            "file": "" if self._engine.is_remote else Path(self._engine.uri).name,
            "collection": self._engine.name,
            "engine_index": self._engine.engine_index,
            "dim": self._width,
        }

    def _arrays(self) -> dict[str, Tensor]:
        return {"probe": self._probe, "keys": self._keys, "gone": self._gone}

    def _restore(self, content: IndexContent) -> None:
        self._width = content.parameter("dim", int)
        file = content.parameter("file", str)
        if file:
            database = content.path.resolve().parent / Path(file).name
            require(database.exists(), "The Milvus Lite file must be there.", path=database)
            self._engine.uri = str(database)
        if not self._width:
            return
        self._probe = np.array(content.array("probe", np.float32, (2, self._width)))
        self._keys = np.arange(len(self))
        if "keys" in content:  # Else it was written when keys were the rows.
            self._keys = np.array(content.array("keys", np.int64, (len(self),)))
            self._gone = np.array(content.array("gone", np.int64, (None,)))
        if self._engine.exists():
            # Of an update that was killed at its end.
            self._delete()
            self._num_rows = self._engine.count()
        require(
            self._num_rows >= len(self) and self._holds_probe(),
            "The collection must hold the images that the index was built of.",
            hint="Build the index again.",
            collection=self._engine.name,
            uri=self._engine.uri,
            num_rows=self._num_rows,
            num_images=len(self),
        )
        if self._num_rows > len(self):
            extra = self._num_rows - len(self)
            absl_logging.warning("%d rows of an interrupted build are passed over.", extra)

    def _holds_probe(self) -> bool:
        keys = self._keys[[0, len(self) - 1]].tolist()
        held = self._engine.read(keys)
        return set(held) == set(keys) and all(
            held[key][0] == one
            and held[key][1].shape == (self._width,)
            and np.allclose(held[key][1], vector, atol=1e-6)
            for key, one, vector in zip(keys, (self._ids[0], self._ids[-1]), self._probe)
        )

    def _take_up(self, ids: Sequence[str]) -> bool:
        """Takes over what a collection holds; returns whether that is these ids, each once."""
        found = list(self._engine.keys()) if self._engine.exists() else []
        keys, self._num_rows = dict(found), len(found)
        if not self._num_rows == len(ids) == len(keys) or not keys.keys() >= set(ids):
            return False
        self._ids, self._known = list(ids), set(ids)
        self._keys = np.array([keys[one] for one in ids], np.int64)
        return True


def open_address(address: str, ids: Sequence[str], ends: np.ndarray, **kwargs: Any) -> MilvusIndex:
    """Opens a collection that `build_index` made, by its address alone.

    Args:
      address: "milvus://HOST:PORT/COLLECTION", or "milvus+https://…" for an encrypted connection.
      ids: of the N images that it must hold, in the order of the index's rows.
      ends: descriptors of the first and the last of them, float32 [2, D], before whitening.
      **kwargs: of `VectorIndex`.

    Raises:
      InputError: no such address, a collection of other images or descriptors.
    """
    parts = urllib.parse.urlsplit(address)
    require(
        parts.scheme in _SCHEMES and bool(parts.netloc) and bool(ids),
        "The address of an index in Milvus must be milvus://HOST:PORT/COLLECTION.",
        address=address,
    )
    uri = f"{_SCHEMES[parts.scheme]}://{parts.netloc}"
    index = MilvusIndex(uri, collection=parts.path.strip("/"), **kwargs)
    index._probe = index.whiten(GlobalDescriptors(("first", "last"), ends)).vectors
    index._width = index._probe.shape[1]
    require(
        index._take_up(ids) and index._holds_probe(),
        "The collection must hold the store's images and their descriptors, each once.",
        hint="Run `delf_tf build_index --type=milvus` on the store, with the same config.",
        address=address,
        num_rows=index._num_rows,
        num_images=len(ids),
    )
    return index
