"""Cells and compact codes of local features: faiss's inverted files of product codes.

A feature is rotated, falls into the cell of the nearest of C centroids, and its residual, or the
feature itself, is coded by product quantisation: D is cut in M runs, each replaced by the number of
the nearest of 2^b vectors. H. Jégou, M. Douze, C. Schmid, "Product quantization for nearest
neighbor search", PAMI 2011; the rotation as in T. Ge, K. He, Q. Ke, J. Sun, "Optimized product
quantization", CVPR 2013. Codes of 4 bits are compared in registers: F. André, A.-M. Kermarrec,
N. Le Scouarnec, "Quicker ADC", PAMI 2021.
"""

from __future__ import annotations

import re
from typing import Any

import faiss
import numpy as np

from delf_tf.checks import as_array, invalid, require
from delf_tf.retrieval.index_file import IndexContent
from delf_tf.retrieval.vectors.faiss_index import reason, skip_polysemous

FACTORY = "OPQ{dim},IVF{cells},PQ{dim}x4fs"
_FORM = re.compile(r"(OPQ[1-9]\d*,)?IVF[1-9]\d*,PQ[1-9]\d*x([1-8]|4fsr?)", re.ASCII)
# More samples than these do not move the cells and codes enough to be worth their time.
_SAMPLES_PER_CELL = 64
_MIN_SAMPLES = 65_536
_OPQ_ROUNDS = 10
# faiss's search that keeps the nearest codes in a heap: of equally near ones the first, always.
_HEAP_SEARCH = 12


def train_codes(
    samples: np.ndarray, factory: str = FACTORY, *, num_features: int | None = None
) -> faiss.Index:
    """Learns the cells and codes of an inverted file; the same on every run.

    Args:
      samples: [S, D], features of other images, or some of the database's.
      factory: "[OPQ{M},]IVF{cells},PQ{M}x{bits}" in faiss's notation, bits 1 to 8 or "4fs"; "{dim}"
        stands for D, "{cells}" for a power of two near twice the root of `num_features`.
      num_features: that the index will hold; None for as many as there are samples.

    Returns:
      A trained index without features.

    Raises:
      InputError: too few samples, a NaN, a factory that does not fit.
    """
    samples = as_array("samples", samples, ("S", "D"))
    cells = 1 << round(np.log2(2 * max(num_features or len(samples), 1) ** 0.5))
    text = str(factory).replace("{dim}", str(samples.shape[1])).replace("{cells}", str(cells))
    require(
        _FORM.fullmatch(text) is not None,
        'factory must be of the form "[OPQ{M},]IVF{cells},PQ{M}x{bits}".',
        hint=f'For example "{FACTORY}", or "OPQ10,IVF8192,PQ10x5".',
        factory=factory,
    )
    try:
        codes = faiss.index_factory(samples.shape[1], text)
        _train(codes, samples)
    except RuntimeError as error:
        raise invalid(
            "factory must fit the width and number of the features.",
            hint="Sample more images, or ask for fewer cells. faiss says: " + reason(error),
            factory=text,
            samples=samples,
        ) from None
    return codes


def _train(codes: faiss.Index, samples: np.ndarray) -> None:
    """Trains on as many samples as improve the codes, without faiss's warnings about few."""
    inner, rotation = _parts(codes)
    most = max(_SAMPLES_PER_CELL * inner.nlist, _MIN_SAMPLES)
    if len(samples) > most:
        samples = samples[np.random.default_rng(0).permutation(len(samples))[:most]]
    skip_polysemous(codes)
    inner.cp.min_points_per_centroid = inner.pq.cp.min_points_per_centroid = 1
    inner.cp.max_points_per_centroid = _SAMPLES_PER_CELL
    if rotation is not None:
        rotation.niter, rotation.max_train_points = _OPQ_ROUNDS, _MIN_SAMPLES
        # Held here until it is used, as faiss keeps its address alone.
        runs = faiss.ProductQuantizer(inner.d, rotation.M, inner.pq.nbits)
        runs.cp.min_points_per_centroid = 1
        rotation.pq = runs
    codes.train(samples)
    if rotation is not None:
        rotation.pq = None


def set_search(codes: faiss.Index, num_probes: int) -> None:
    """Makes searches look into `num_probes` cells, and equally near features fall by number."""
    inner, _ = _parts(codes)
    inner.nprobe = min(num_probes, inner.nlist)
    if isinstance(inner, faiss.IndexIVFPQFastScan):
        inner.implem = _HEAP_SEARCH


def _parts(codes: faiss.Index) -> tuple[Any, Any]:
    """Returns the inverted file and what rotates features before it, or None, as what they are."""
    if not isinstance(codes, faiss.IndexPreTransform):
        return faiss.downcast_index(codes), None
    chain: Any = codes.chain
    return faiss.downcast_index(codes.index), faiss.downcast_VectorTransform(chain.at(0))


def learned_arrays(codes: faiss.Index) -> list[np.ndarray]:
    """Returns what training learned: cells, codes and, if there is one, the rotation."""
    inner, rotation = _parts(codes)
    cells = inner.quantizer.reconstruct_n(0, inner.nlist)
    learned = [cells, faiss.vector_to_array(inner.pq.centroids)]
    return learned if rotation is None else [*learned, faiss.vector_to_array(rotation.A)]


def remove_features(codes: faiss.Index, first: int, end: int) -> None:
    """Takes the features numbered first..end - 1 out of an index."""
    inner, _ = _parts(codes)
    lists: Any = faiss.downcast_InvertedLists(inner.invlists)
    before = [lists.list_size(cell) for cell in range(inner.nlist)]
    codes.remove_ids(faiss.IDSelectorRange(first, end))
    if not isinstance(inner, faiss.IndexIVFPQFastScan):
        return
    # faiss 1.15 leaves old codes behind a list's end and lays new ones over them, bit on bit.
    packer, zeros = lists.packer, np.zeros(inner.code_size, np.uint8)
    for cell, old_size in enumerate(before):
        size = lists.list_size(cell)
        if size == old_size:
            continue
        shape = -(-size // packer.nvec), packer.block_size
        blocks = faiss.rev_swig_ptr(lists.get_codes(cell), shape[0] * shape[1]).reshape(shape)
        for place in range(size, shape[0] * packer.nvec):
            packer.pack_1(zeros, place, blocks)


def renumber_features(codes: faiss.Index, starts: np.ndarray, shifts: np.ndarray) -> None:
    """Adds to the number of each feature what its image's are shifted by.

    Args:
      codes: as `train_codes` makes it.
      starts: int64 [images + 1], the number of each image's first feature, ascending.
      shifts: int64 [images].
    """
    inner, _ = _parts(codes)
    lists: Any = faiss.downcast_InvertedLists(inner.invlists)
    for cell in range(inner.nlist):
        size = lists.list_size(cell)
        if size:
            numbers = faiss.rev_swig_ptr(lists.get_ids(cell), size)
            numbers += shifts[np.searchsorted(starts, numbers, side="right") - 1]


def read_codes(content: IndexContent) -> faiss.Index:
    """Returns the index that a file holds as "codes".

    Raises:
      InputError: not one of the form that `train_codes` makes.
    """
    try:
        codes = faiss.deserialize_index(np.asarray(content.array("codes", np.uint8, (None,))))
    except (RuntimeError, MemoryError) as error:
        raise invalid(
            "The codes must be a faiss index.", path=content.path, faiss=reason(error)
        ) from None
    require(
        _has_form(codes),
        "The codes must be an inverted file of product codes, as index.local.factory makes it.",
        path=content.path,
    )
    return codes


def _has_form(codes: faiss.Index) -> bool:
    """Tells whether a stranger's index is of the parts that `train_codes` makes."""
    chain: Any = codes.chain if isinstance(codes, faiss.IndexPreTransform) else None
    if chain is not None and chain.size() != 1:
        return False
    inner, rotation = _parts(codes)
    return (
        (rotation is None or isinstance(rotation, faiss.LinearTransform))
        and isinstance(inner, (faiss.IndexIVFPQ, faiss.IndexIVFPQFastScan))
        and isinstance(faiss.downcast_index(inner.quantizer), faiss.IndexFlat)
        and bool(codes.is_trained)
    )
