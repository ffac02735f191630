"""Approximate search by faiss, with exact re-scoring of the best results.

Johnson et al., "Billion-scale similarity search with GPUs", IEEE Transactions on Big Data 2021. The
compressed codes stay in memory, a few dozen bytes an image; the vectors may stay in a mapped file,
of which a query touches `num_rescored` rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import faiss
import numpy as np

from delf_tf.checks import invalid, require
from delf_tf.retrieval.index_file import IndexContent
from delf_tf.retrieval.vectors.vector_index import VectorIndex
from delf_tf.retrieval.vectors.whitening import same_whitening
from delf_tf.tensor_file import Tensor

# Beyond this many vectors a coarse cell, k-means gains nothing.
_TRAINING_PER_CELL = 64
_MIN_TRAINING = 65536
_BATCH = 16


class FaissIndex(VectorIndex):
    """A faiss index by its factory string, with exact re-scoring of the head."""

    kind = "faiss"
    learns = True

    def __init__(
        self,
        factory: str,
        *,
        num_probes: int = 64,
        num_rescored: int = 200,
        keep_vectors: bool = True,
        **kwargs: Any,
    ):
        """Makes an empty, untrained index.

        Args:
          factory: such as "Flat", "SQ8", "IVF1024,PQ64", "IVF2048,PQ128x4fs", "IVF2048,RaBitQ".
            Codes are compared by inner product; behind a "PCA…", which moves the origin, by the
            distance, which orders unit vectors alike.
          num_probes: cells visited a query, for factories with "IVF".
          num_rescored: results that are scored again exactly; 0 keeps the scores of the codes.
          keep_vectors: keep the vectors for the re-scoring; otherwise `attach` gives them later.
          **kwargs: of `VectorIndex`: dtype, whitening, already_whitened, fingerprint.

        Raises:
          InputError: a count out of range. A factory that faiss does not know is refused by the
            first `add`, when the width is known.
        """
        super().__init__(**kwargs)
        self.factory = factory
        self.num_probes, self.num_rescored = num_probes, num_rescored
        self.set_effort(num_probes=num_probes, num_rescored=num_rescored)
        self.keep_vectors = keep_vectors
        self._codes: faiss.Index | None = None

    @property
    def dim(self) -> int:
        """Width of the descriptors that it takes; 0 while that is open."""
        if self.whitening is not None or self._codes is None:
            return super().dim
        return int(self._codes.d)

    @property
    def num_bytes(self) -> int:
        """Size of the codes and cells, without ids and vectors; 0 while it is untrained."""
        return len(faiss.serialize_index(self._codes)) if self._codes is not None else 0

    @property
    def lacks_vectors(self) -> bool:
        """See VectorIndex."""
        return len(self._table) < len(self)

    def set_effort(self, *, num_probes: int | None = None, num_rescored: int | None = None) -> None:
        """See VectorIndex."""
        super().set_effort(num_probes=num_probes, num_rescored=num_rescored)
        if num_probes is not None:
            self.num_probes = num_probes
        if num_rescored is not None:
            self.num_rescored = num_rescored

    def train(self, vectors: np.ndarray) -> None:
        """Fits cells and codes to a sample; without it the first `add` does, with what it adds.

        Args:
          vectors: float32 [N, D], as extracted; the index whitens them itself.

        Raises:
          InputError: trained already, a factory unknown to faiss or not fit for this width or this
            few vectors.
        """
        require(self._codes is None, "An index must be trained once.")
        if self.whitening is not None:
            vectors = self.whitening.apply(vectors)
        self._codes = self._trained(np.ascontiguousarray(vectors, np.float32))

    def train_as(self, other: VectorIndex) -> bool:
        """See VectorIndex: the cells and codes, without the images."""
        if not isinstance(other, FaissIndex) or other._codes is None:
            return False
        if other.factory != self.factory or not same_whitening(self.whitening, other.whitening):
            return False
        self._codes = faiss.clone_index(other._codes)
        self._codes.reset()
        return True

    def attach(self, vectors: np.ndarray) -> None:
        """Gives an index without vectors those it was made of, such as a mapped [N, D] array.

        Raises:
          InputError: another number or width, or an index that has vectors.
        """
        require(len(self._table) == 0, "The index must not hold vectors yet.", index=len(self))
        fits = vectors.ndim == 2 and vectors.shape == (len(self), self._width())
        require(
            fits,
            f"vectors must have shape [{len(self)}, {self._width()}].",
            hint="Attach the vectors that the index was built from, whitened if it whitens.",
            vectors=vectors,
        )
        self._table.append(vectors)

    def _width(self) -> int:
        return int(self._codes.d) if self._codes is not None else 0

    def _trained(self, vectors: np.ndarray) -> faiss.Index:
        metric = faiss.METRIC_L2 if self.factory.startswith("PCA") else faiss.METRIC_INNER_PRODUCT
        try:
            codes = faiss.index_factory(vectors.shape[1], self.factory, metric)
            skip_polysemous(codes)
            codes.train(_sample(vectors, codes))
        except RuntimeError as error:
            raise invalid(
                "factory must be a faiss factory string for vectors of this width and number.",
                hint="For example SQ8, or IVF1024,PQ64 with more images than cells.",
                factory=self.factory,
                vectors=vectors,
                faiss=reason(error),
            ) from None
        return codes

    def _add_vectors(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        if not len(vectors):
            return
        codes = self._trained(vectors) if self._codes is None else self._codes
        # Before the codes, which cannot be taken back.
        if self.keep_vectors:
            self._table.append(vectors)
        codes.add(np.ascontiguousarray(vectors, np.float32))
        self._codes = codes

    def _search_vectors(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        # Whoever holds images has been trained.
        codes = cast("faiss.Index", self._codes)
        _set_probes(codes, self.num_probes)
        if not len(queries):
            return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
        depth = min(max(k, self.num_rescored), len(self))
        distances, rows = codes.search(np.ascontiguousarray(queries), depth)
        if not self.num_rescored:
            scores = distances if _is_product(codes) else 1 - distances / 2
            scores = np.where(rows < 0, -np.inf, scores)
            return _best(rows, scores, k)
        require(
            len(self._table) == len(self),
            "The index must hold its vectors to score its results again.",
            hint="Call attach, build with keep_vectors=True, or set num_rescored=0.",
        )
        return self._rescore(queries, rows, k)

    def _rescore(
        self, queries: np.ndarray, rows: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the best `k` of `rows` [Q, R] by exact score; beyond `num_rescored` as found."""
        best_rows = rows[:, :k].copy()
        best_scores = np.zeros(best_rows.shape, np.float32)
        for start in range(0, len(queries), _BATCH):
            batch = slice(start, start + _BATCH)
            found = rows[batch]
            vectors = self._table.take(np.maximum(found, 0)).astype(np.float64)
            # Not a matrix product: it would score equal vectors unequally (see topk).
            products = np.einsum("qrd,qd->qr", vectors, queries[batch].astype(np.float64))
            scores = products.astype(np.float32)
            scores[found < 0] = -np.inf
            best_rows[batch], best_scores[batch] = _best(found, scores, k)
        return best_rows, best_scores

    @classmethod
    def _arguments(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        names = ("factory", "num_probes", "num_rescored", "keep_vectors")
        return {name: parameters[name] for name in names}

    def _parameters(self) -> dict[str, Any]:
        return {
            "factory": self.factory,
            "num_probes": self.num_probes,
            "num_rescored": self.num_rescored,
            "keep_vectors": self.keep_vectors,
            "dim": self._width(),
        }

    def _arrays(self) -> dict[str, Tensor]:
        arrays = super()._arrays() if self.keep_vectors else {}
        if self._codes is not None:
            arrays["codes"] = faiss.serialize_index(self._codes)
        return arrays

    def _restore(self, content: IndexContent) -> None:
        if self.keep_vectors:
            super()._restore(content)
        if "codes" not in content:
            require(not len(self), "The index must hold codes of its images.", path=content.path)
            return
        try:
            self._codes = faiss.deserialize_index(
                np.asarray(content.array("codes", np.uint8, (None,)))
            )
        except (RuntimeError, MemoryError) as error:
            raise invalid(
                "The codes must be a faiss index.", path=content.path, faiss=reason(error)
            ) from None
        require(
            self._codes.ntotal == len(self) and self._codes.d == content.parameters["dim"],
            "The codes must be of the file's images.",
            num_codes=self._codes.ntotal,
            num_images=len(self),
            path=content.path,
        )


def default_factory(num_images: int, dim: int) -> str:
    """Returns the factory string for this many images: 64 bytes an image and 8 for its row.

    Cells grow with the square root of the number of images; codes are 4-bit product quantisation,
    scanned in registers, and vectors wider than 512 are first projected to 512.
    """
    cells = 1 << max(round(np.log2(2 * max(num_images, 1) ** 0.5)), 4)
    reduced = dim if dim <= 512 else 512
    parts = max(p for p in range(1, reduced // 4 + 2) if reduced % p == 0 and p <= 128)
    prefix = "" if reduced == dim else f"PCAR{reduced},"
    return f"{prefix}IVF{cells},PQ{parts}x4fs"


def _best(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best `k` of rows [Q, R] by score, then by row, and their scores; 0 for no row."""
    order = np.lexsort((rows, -scores))[:, :k]
    rows = np.take_along_axis(rows, order, axis=1)
    return rows, np.where(rows < 0, 0, np.take_along_axis(scores, order, axis=1))


def _sample(vectors: np.ndarray, codes: faiss.Index) -> np.ndarray:
    """Returns the vectors to train on: all, or an even sample of them."""
    cells = faiss.try_extract_index_ivf(codes)
    most = max(_TRAINING_PER_CELL * (cells.nlist if cells is not None else 0), _MIN_TRAINING)
    if len(vectors) <= most:
        return vectors
    return np.ascontiguousarray(vectors[np.linspace(0, len(vectors) - 1, most).astype(np.int64)])


def skip_polysemous(codes: faiss.Index) -> None:
    """Leaves out an annealing of code words: most of the training, and of no use here."""
    inner = faiss.downcast_index(codes)
    if isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    if hasattr(inner, "do_polysemous_training"):
        inner.do_polysemous_training = False


def _set_probes(codes: faiss.Index, num_probes: int) -> None:
    cells = faiss.try_extract_index_ivf(codes)
    if cells is not None:
        cells.nprobe = min(num_probes, cells.nlist)


def _is_product(codes: faiss.Index) -> bool:
    return bool(codes.metric_type == faiss.METRIC_INNER_PRODUCT)


def reason(error: Exception) -> str:
    """Returns faiss's own words without its source lines."""
    return str(error).rsplit("Error: ", 1)[-1].partition("\n")[0][:200]
