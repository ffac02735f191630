"""Indexes of global descriptors: the exact index, and the table of the others."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import invalid, require
from delf_tf.progress import Progress
from delf_tf.retrieval.index_file import map_index
from delf_tf.retrieval.vectors.topk import search_blocks
from delf_tf.retrieval.vectors.vector_index import VectorIndex
from delf_tf.types import GlobalDescriptors, Ranking


class ExactIndex(VectorIndex):
    """Inner products with every image, by blocks: the oracle of every other index.

    Ties go to the lower row; memory besides the vectors does not grow with their number, and they
    may be mapped from a file.
    """

    kind = "exact"

    def _search_vectors(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return search_blocks(self._table, queries, k)


def search_all(database: GlobalDescriptors, queries: GlobalDescriptors) -> Ranking:
    """Returns the exact ranking of the whole database for each query."""
    index = ExactIndex()
    index.add(database)
    return index.search(queries, len(database))


# The kinds that a file can hold, each loaded when it is wanted; a new kind is a class and a row.
INDEX_KINDS = {
    "exact": "delf_tf.retrieval.vectors.index:ExactIndex",
    "faiss": "delf_tf.retrieval.vectors.faiss_index:FaissIndex",
    "milvus": "delf_tf.retrieval.vectors.milvus_index:MilvusIndex",
}

# Vectors that an index is trained on at most.
MAX_TRAINING = 1 << 18

# Vectors added together, unless the store's blocks are larger.
_MERGED_ROWS = 1 << 13

# Up to here exact search answers in a few milliseconds a query.
MAX_EXACT_IMAGES = 200_000


def create_index(
    type_: str = "auto", *, num_images: int = 0, dim: int = 0, **kwargs: Any
) -> VectorIndex:
    """Returns an empty index.

    Args:
      type_: "exact"; a faiss factory string such as "SQ8" or "IVF2048,PQ128x4fs"; "auto", exact up
        to MAX_EXACT_IMAGES images and compressed beyond; "milvus", kept by that engine; or a class
        of your own, "package.module:Class".
      num_images: how many images "auto" is to expect.
      dim: width of the descriptors, for "auto".
      **kwargs: of the class: dtype, whitening, already_whitened, fingerprint, and for faiss
        num_probes, num_rescored, keep_vectors; for Milvus uri, collection, engine_index, replace.

    Raises:
      InputError: a class that cannot be found, an argument that it does not take.
    """
    if type_ == "auto":
        if num_images <= MAX_EXACT_IMAGES:
            type_ = "exact"
        else:
            from_faiss = importlib.import_module("delf_tf.retrieval.vectors.faiss_index")
            type_ = from_faiss.default_factory(num_images, dim)
    if type_ in INDEX_KINDS or ":" in type_:
        made = _find_class(INDEX_KINDS.get(type_, type_))
    else:
        made = _find_class(INDEX_KINDS["faiss"])
        kwargs = {"factory": type_, **kwargs}
    try:
        return made(**kwargs)
    except TypeError as error:
        raise invalid(
            "An index must get the arguments of its class.", type=type_, fault=str(error)
        ) from None


def build_index(
    blocks: Callable[[], Iterable[tuple[Sequence[str], np.ndarray]]],
    type_: str = "auto",
    *,
    num_images: int,
    learned: VectorIndex | None = None,
    **kwargs: Any,
) -> VectorIndex:
    """Builds an index from blocks of descriptors, such as `FeatureStore.global_blocks`.

    They are gone through once to add them, and once before that, for an index that must be trained,
    to draw an even sample.

    Args:
      blocks: gives an iterable of (n ids, float32 [n, D]) each time it is called.
      type_: see `create_index`.
      num_images: how many there are in all.
      learned: an index whose training is taken over, if it is of the same kind.
      **kwargs: see `create_index`.

    Raises:
      InputError: no images, or as `create_index` and `VectorIndex.add`.
    """
    dim = next((vectors.shape[1] for _, vectors in blocks() if len(vectors)), 0)
    require(dim > 0, "An index must be built of at least one image.", num_images=num_images)
    index = create_index(type_, num_images=num_images, dim=dim, **kwargs)
    if index.learns and not (learned is not None and index.train_as(learned)):
        index.train(_sample(blocks(), num_images))
    with Progress(num_images, "images", "Indexing") as progress:
        for ids, vectors in _merged(blocks()):
            index.add(GlobalDescriptors(ids, vectors))
            progress.update(len(ids))
    return index


def load_index(path: StrPath, *, fingerprint: str | None = None, check: bool = True) -> VectorIndex:
    """Reads an index of any kind.

    Args:
      path: what `Index.save` wrote.
      fingerprint: of the features that will be searched with; None accepts any.
      check: read the whole file once against its checksum.

    Raises:
      InputError: no such file, damaged, cut short, of an unknown kind or another fingerprint.
    """
    content = map_index(path, *INDEX_KINDS, check=check)
    return _find_class(INDEX_KINDS[content.kind]).from_content(content, fingerprint=fingerprint)


def _find_class(dotted: str) -> type[VectorIndex]:
    module, _, name = dotted.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise invalid(
            "An index's class must be importable.", type=dotted, fault=str(error)
        ) from None
    is_index = isinstance(found, type) and issubclass(found, VectorIndex)
    require(is_index, "An index's class must be a VectorIndex.", type=dotted)
    return cast("type[VectorIndex]", found)


def _merged(
    blocks: Iterable[tuple[Sequence[str], np.ndarray]],
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Yields blocks put together to at least _MERGED_ROWS: each part of an index costs a search."""
    ids: list[str] = []
    parts: list[np.ndarray] = []
    for some, vectors in blocks:
        ids.extend(some)
        parts.append(vectors)
        if len(ids) >= _MERGED_ROWS:
            yield tuple(ids), np.concatenate(parts)
            ids, parts = [], []
    if ids:
        yield tuple(ids), np.concatenate(parts)


def _sample(blocks: Iterable[tuple[Sequence[str], np.ndarray]], num_images: int) -> np.ndarray:
    """Returns an even sample of at most MAX_TRAINING vectors."""
    step = max(-(-num_images // MAX_TRAINING), 1)
    taken, seen = [], 0
    for _, vectors in blocks:
        taken.append(vectors[-seen % step :: step])
        seen += len(vectors)
    return np.concatenate(taken)
