"""Indexes of global descriptors: the protocol, the exact index, and kinds by name."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import require_choice
from delf_tf.retrieval.container import open_container
from delf_tf.retrieval.rankings import cut, without_self
from delf_tf.retrieval.topk import search_blocks
from delf_tf.retrieval.vector_index import VectorIndex
from delf_tf.types import GlobalDescriptors, Ranking

__all__ = [
    "INDEX_KINDS",
    "ExactIndex",
    "Index",
    "cut",
    "load_index",
    "without_self",
]


class Index(Protocol):
    """What finds the database images nearest to a query."""

    def __len__(self) -> int:
        """Number of images."""

    def add(self, descriptors: GlobalDescriptors) -> None:
        """Adds images; their rows follow those added before."""

    def search(self, queries: GlobalDescriptors, k: int, *, exclude_self: bool = False) -> Ranking:
        """Returns the `k` best images of each query."""

    def save(self, path: StrPath) -> Path:
        """Writes the index atomically and returns `path`."""


class ExactIndex(VectorIndex):
    """Inner products with every image, by blocks: the oracle of every other index.

    Ties go to the lower row; memory besides the vectors does not grow with their number, and they
    may be mapped from a file.
    """

    kind = "exact"

    def _search_vectors(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return search_blocks(self._table, queries, k)


# The kinds that a file can hold; a new kind is a class and a row here.
INDEX_KINDS: dict[str, type[VectorIndex]] = {ExactIndex.kind: ExactIndex}


def load_index(path: StrPath, *, fingerprint: str | None = None, check: bool = True) -> VectorIndex:
    """Reads an index of any kind.

    Args:
      path: what `Index.save` wrote.
      fingerprint: of the features that will be searched with; None accepts any.
      check: read the whole file once against its checksum.

    Raises:
      InputError: no such file, damaged, cut short, of an unknown kind or another fingerprint.
    """
    container = open_container(path, check=check)
    require_choice("The index's kind", container.kind, INDEX_KINDS)
    return INDEX_KINDS[container.kind].from_container(container, fingerprint=fingerprint)
