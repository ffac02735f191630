"""Cells and compact codes of local features: an inverted file's coarse words and residual codes.

A feature is rotated, falls into the cell of the nearest of C centroids, and its residual is coded
by product quantisation: D is cut in M runs, each replaced by the nearest of 2^b vectors' number.
H. Jégou, M. Douze, C. Schmid, "Product quantization for nearest neighbor search", PAMI 2011;
the rotation as in T. Ge, K. He, Q. Ke, J. Sun, "Optimized product quantization", CVPR 2013. The
code of DELF (H. Noh et al., ICCV 2017) is "PQ10x5": 50 bits for 40 dimensions.
"""

from __future__ import annotations

import dataclasses
import re

import faiss
import numpy as np

from delf_tf.artifacts import fingerprint
from delf_tf.checks import as_array, invalid, require
from delf_tf.features.product_quantization import one_thread
from delf_tf.retrieval import cell_kernels, code_kernels
from delf_tf.retrieval.block_scan import TABLE
from delf_tf.retrieval.words.word_assignment import WordAssigner

_FACTORY = re.compile(r"(OPQ(\d{1,4}),)?IVF(\d{1,7}),PQ(\d{1,4})x(\d)", re.ASCII)
_MAX_CODE_BITS = 64
# More samples than these do not move the centroids and codes enough to be worth their time.
_SAMPLES_PER_CELL = 64
_MAX_CODE_SAMPLES = 65_536
_OPQ_ROUNDS = 10
# Nearest cells of a feature that are kept in order while they are found.
_MAX_TILED_CELLS = 64


@dataclasses.dataclass(frozen=True)
class Factory:
    """What a factory string such as "OPQ10,IVF8192,PQ10x5" asks for.

    Attributes:
      rotate: whether a rotation is learned for the codes.
      num_cells: cells of the inverted file.
      num_parts: runs that the dimensions are cut in, M.
      num_bits: bits of each run's code, b, 1 to 8.
    """

    rotate: bool
    num_cells: int
    num_parts: int
    num_bits: int

    @classmethod
    def parse(cls, text: str, dim: int) -> Factory:
        """Reads the string "[OPQ{M},]IVF{cells},PQ{M}x{bits}" in faiss' notation.

        Raises:
          InputError: another form, M that does not divide `dim`, more than 64 bits a code.
        """
        found = _FACTORY.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise invalid(
                'factory must be of the form "[OPQ{M},]IVF{cells},PQ{M}x{bits}".',
                hint='For example "OPQ10,IVF8192,PQ10x5".',
                factory=text,
            )
        rotation, cells, parts, bits = found.group(2), *map(int, found.group(3, 4, 5))
        fits = (
            cells >= 1
            and parts >= 1
            and 1 <= bits <= 8
            and dim % parts == 0
            and parts * bits <= _MAX_CODE_BITS
            and rotation in (None, str(parts))
        )
        require(
            fits,
            "factory must have at least one cell, an M that divides the features' width and is the "
            f"same for OPQ and PQ, 1 to 8 bits, and at most {_MAX_CODE_BITS} bits a code.",
            factory=text,
            dim=dim,
        )
        return cls(rotation is not None, cells, parts, bits)


class LocalQuantizer:
    """Trained cells and codes.

    Attributes:
      rotation: float32 [D, D], applied as features @ rotation.
      centroids: float32 [C, D], of the cells, rotated.
      codebooks: float32 [M, 2^b, D / M].
      fingerprint: of the three.
    """

    def __init__(self, rotation: np.ndarray, centroids: np.ndarray, codebooks: np.ndarray):
        """Takes trained arrays.

        Raises:
          InputError: shapes that do not fit each other, NaN.
        """
        self.centroids = as_array("centroids", centroids, ("C", "D"))
        dim = self.centroids.shape[1]
        self.rotation = as_array("rotation", rotation, (dim, dim))
        self.codebooks = as_array("codebooks", codebooks, ("M", "2^b", "D/M"))
        parts, codes, width = self.codebooks.shape
        self.num_bits = max(codes - 1, 1).bit_length()
        require(
            len(self.centroids) > 0
            and parts * width == dim
            and codes == 1 << self.num_bits
            and self.num_bits <= 8
            and parts * self.num_bits <= _MAX_CODE_BITS,
            "codebooks must cut the features' width in runs of a power of two of vectors.",
            centroids=self.centroids,
            codebooks=self.codebooks,
        )
        self.code_bytes = -(-parts * self.num_bits // 8)
        self._cells = WordAssigner(self.centroids)
        self._tiles = cell_kernels.tiled(self.centroids)
        arrays = (self.rotation, self.centroids, self.codebooks)
        self.fingerprint = fingerprint(
            *(part for one in arrays for part in (repr(one.shape), one.tobytes()))
        )

    @property
    def dim(self) -> int:
        """Width D of the features."""
        return int(self.centroids.shape[1])

    @classmethod
    def train(cls, samples: np.ndarray, factory: str, seed: int = 0) -> LocalQuantizer:
        """Learns cells and codes; the same on every run.

        Args:
          samples: [S, D] features, at least as many as cells and as 2^bits.
          factory: see `Factory.parse`.
          seed: chooses among the samples and where clustering starts.

        Raises:
          InputError: too few samples, NaN, a factory that does not fit.
        """
        samples = as_array("samples", samples, ("S", "D"))
        wanted = Factory.parse(factory, samples.shape[1])
        needed = max(wanted.num_cells, 1 << wanted.num_bits)
        require(
            len(samples) >= needed,
            f"samples must be at least {needed} for {factory}.",
            hint="Sample more images, or ask for fewer cells.",
            samples=samples,
        )
        order = np.random.default_rng(seed).permutation(len(samples))
        few = samples[order[:_MAX_CODE_SAMPLES]]
        rotation = np.eye(samples.shape[1], dtype=np.float32)
        if wanted.rotate:
            rotation = _learn_rotation(few, wanted)
        chosen = samples[order[: _SAMPLES_PER_CELL * wanted.num_cells]] @ rotation
        centroids = _cluster(chosen, wanted.num_cells, seed)
        few = few @ rotation
        residuals = few - centroids[WordAssigner(centroids).nearest(few)[:, 0]]
        runs = np.split(residuals, wanted.num_parts, axis=1)
        codebooks = [
            _cluster(np.ascontiguousarray(run), 1 << wanted.num_bits, seed) for run in runs
        ]
        return cls(rotation, centroids, np.stack([_grouped(words) for words in codebooks]))

    def rotated(self, descriptors: np.ndarray) -> np.ndarray:
        """Returns the features as cells and codes see them, float32 [N, D]."""
        return np.ascontiguousarray(descriptors @ self.rotation)

    def cells(self, rotated: np.ndarray, num_cells: int = 1) -> np.ndarray:
        """Returns int64 [N, num_cells], the nearest cells of rotated features, nearest first.

        All cells, if there are fewer.
        """
        num_cells = min(num_cells, len(self.centroids))
        if self._cells.kind != "exact" or num_cells > _MAX_TILED_CELLS:
            with one_thread():
                return self._cells.nearest(rotated, num_cells)
        padding = -len(rotated) % cell_kernels.ROWS
        rows = np.pad(rotated, ((0, padding), (0, 0))) if padding else rotated
        cells = np.empty((len(rows), num_cells), np.int64)
        gaps = np.empty((len(rows), num_cells), np.float32)
        cell_kernels.nearest_cells(rows, *self._tiles, cells, gaps)
        return cells[: len(rotated)]

    def encode(self, descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the cells int64 [N] and codes uint8 [N, code_bytes] of float32 [N, D]."""
        rotated = self.rotated(descriptors)
        cells = self.cells(rotated)[:, 0]
        codes = np.zeros((len(rotated), self.code_bytes), np.uint8)
        residuals = rotated - self.centroids[cells]
        code_kernels.encode(residuals, self.codebooks, self.num_bits, codes)
        return cells, codes


def _learn_rotation(samples: np.ndarray, wanted: Factory) -> np.ndarray:
    dim = samples.shape[1]
    transform = faiss.OPQMatrix(dim, wanted.num_parts)
    transform.niter = _OPQ_ROUNDS
    transform.max_train_points = len(samples)
    codes = faiss.ProductQuantizer(dim, wanted.num_parts, wanted.num_bits)
    transform.pq = codes
    transform.train(samples)
    matrix = faiss.vector_to_array(transform.A).reshape(dim, dim)
    return np.ascontiguousarray(matrix.T)


def _grouped(words: np.ndarray) -> np.ndarray:
    """Numbers words so that near ones share the low five bits, which are compared first.

    Args:
      words: float32 [2^b, D]; up to 32 of them are left as they are.
    """
    groups = [np.arange(len(words))]
    while len(groups) < TABLE < len(words):
        axes = [words[rows].var(axis=0).argmax() for rows in groups]
        ordered = [
            rows[np.argsort(words[rows, axis], kind="stable")] for rows, axis in zip(groups, axes)
        ]
        groups = [half for rows in ordered for half in np.split(rows, 2)]
    return words[np.stack(groups, axis=1).ravel()]


def _cluster(rows: np.ndarray, num_clusters: int, seed: int) -> np.ndarray:
    clustering = faiss.Kmeans(
        rows.shape[1],
        num_clusters,
        niter=10,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=max(len(rows) // num_clusters + 1, 1),
    )
    clustering.train(rows)
    return np.asarray(clustering.centroids, np.float32)
