"""Base class of the indexes of local features: ids, adding, arranging, searching, files."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import as_array, require
from delf_tf.retrieval.index_file import IndexContent, write_index
from delf_tf.retrieval.ordering import arranged_rows
from delf_tf.retrieval.query_batch import Queries, checked_k, checked_queries, make_ranking
from delf_tf.types import Ranking


class LocalFeatureIndex:
    """Images by their local features, which can be added and taken out at any time.

    Attributes:
      fingerprint: of what was learned and of the parameters; indexes of different ones do not mix.
      contents: by id which file's content was added; whoever knows it fills it in, and the file
        keeps it.
    """

    kind = ""
    # Whether an image is a result only if its score is positive.
    needs_score = False

    fingerprint: str

    def __init__(self, dim: int):
        """Makes an index of no images, for descriptors of width `dim`."""
        self._dim = dim
        self._ids: list[str] = []
        self._known: set[str] = set()
        self.contents: dict[str, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> tuple[str, ...]:
        """The database's image ids, in row order."""
        return tuple(self._ids)

    def add(self, image_id: str, descriptors: np.ndarray, **known: Any) -> None:
        """Adds an image behind the others.

        Args:
          image_id: not yet in the index.
          descriptors: [N, D]; an image without features is kept and scores 0.
          **known: what the index need not compute again, see its `_encode`.

        Raises:
          InputError: an id twice, another width, a NaN.
        """
        image_id = str(image_id)
        encoded = self._encode(self._checked(descriptors, image_id), **known)
        with self._lock:
            require(
                image_id not in self._known,
                "An image must be added once.",
                hint="Take the one that is in the index out first.",
                image_id=image_id,
            )
            self._append(encoded)
            self._ids.append(image_id)
            self._known.add(image_id)

    def add_all(self, images: Iterable[tuple[str, np.ndarray]]) -> None:
        """Adds (id, descriptors [N, D]) pairs as `add` does, in order."""
        for image_id, descriptors in images:
            self.add(image_id, descriptors)

    def arrange(self, ids: Sequence[str]) -> None:
        """Keeps the images that are named, in this order, and takes all others out.

        Args:
          ids: of images in the index, unique.

        Raises:
          InputError: an image that is not in the index, or twice.
        """
        with self._lock:
            self._renumber(arranged_rows(self._ids, ids))
            self._ids, self._known = list(ids), set(ids)

    def search(self, queries: Queries, k: int | None = None) -> Ranking:
        """Ranks the database for each query.

        Args:
          queries: mapping of id to descriptors [N, D], or pairs of them.
          k: results a query; None for all images.

        Returns:
          The ranking; equal scores in row order; a query without features has no results (-1).

        Raises:
          InputError: an empty index, k above the number of images, an id twice, bad descriptors.
        """
        pairs = checked_queries(queries, self._checked)
        ids = self.ids
        scores = self._scores_of_all([descriptors for _, descriptors in pairs])
        scores = (one[: len(ids)] for one in scores)
        k = checked_k(k, len(ids))
        return make_ranking(pairs, ids, k, scores, needs_score=self.needs_score)

    @classmethod
    def load(cls, path: StrPath, expected_fingerprint: str | None = None) -> LocalFeatureIndex:
        """Reads what `save` wrote.

        Args:
          path: of the file.
          expected_fingerprint: refuse an index of another one.

        Raises:
          InputError: no such file, damaged, another kind, another fingerprint.
        """
        raise NotImplementedError

    def save(self, path: StrPath) -> Path:
        """Writes the index with what it learned, atomically, and returns the path."""
        with self._lock:
            arrays, ids = self._arrays(), self.ids
        return write_index(
            path,
            self.kind,
            fingerprint=self.fingerprint,
            ids=ids,
            arrays=arrays,
            parameters=self._parameters(),
            contents=self.contents,
        )

    def _restore(self, content: IndexContent, expected_fingerprint: str | None) -> None:
        """Takes up the ids of a file, which must be of this very index."""
        content.require_fingerprint(expected_fingerprint, self.fingerprint)
        self._ids, self._known = list(content.ids), set(content.ids)
        self.contents = content.contents

    def _checked(self, descriptors: np.ndarray, image_id: str) -> np.ndarray:
        return as_array(f"descriptors of {image_id}", descriptors, ("N", self._dim))

    def _encode(self, descriptors: np.ndarray) -> Any:
        """Returns what `_append` is given of an image's descriptors."""
        return descriptors

    def _append(self, encoded: Any) -> None:
        """Adds an image behind the others; the lock is held."""
        raise NotImplementedError

    def _renumber(self, rows: np.ndarray) -> None:
        """Gives each image the row in int64 [images], or takes it out (-1); the lock is held."""
        raise NotImplementedError

    def _scores_of_all(self, queries: list[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields for each query's descriptors float64 [images], the images' scores."""
        raise NotImplementedError

    def _arrays(self) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def _parameters(self) -> dict[str, Any]:
        raise NotImplementedError
