"""Product quantisation: a descriptor in a few bytes, by the nearest centroid in each subspace.

H. Jégou, M. Douze, C. Schmid, "Product Quantization for Nearest Neighbor Search" (PAMI 2011). The
DELF paper keeps 40-D descriptors at 50 bits: "pq10x5", ten subspaces of four dimensions and 32
centroids each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from delf_tf.checks import as_array, invalid, require
from delf_tf.features import geometry_codec
from delf_tf.features.geometry_codec import Fields, decode_geometry, encode_geometry
from delf_tf.features.quantization import FieldTypes
from delf_tf.types import LocalFeatures

# "pq", subspaces M, bits a subspace.
NAME_PATTERN = re.compile(r"pq(?P<subspaces>[1-9]\d{0,3})x(?P<bits>[1-8])")

_MAX_SAMPLES = 16384


class ProductQuantizer:
    """Keeps M·B bits of a descriptor, packed over the image, and 7 bytes of geometry.

    `decode` gives the centroids, which are the means of what they stand for: the distance of an
    exact descriptor to a decoded one is the asymmetric distance of the paper.

    Attributes:
      name: "pqMxB".
      dim: width D of the descriptors.
      codebook: float32 [M, 2^B, D / M], the centroids.
      fields: see `quantization.Codec`.
    """

    def __init__(self, name: str, codebook: np.ndarray):
        """Makes the codec from what was trained.

        Raises:
          InputError: a codebook whose shape does not fit the name.
        """
        num_subspaces, bits = _parse(name)
        self.name = name
        self.codebook = as_array("codebook", codebook, (num_subspaces, 1 << bits, "D/M"))
        self.dim = num_subspaces * self.codebook.shape[2]
        require(self.dim > 0, "A codebook must not be empty.", codebook=self.codebook)
        self._bits = bits
        self.fields: FieldTypes = {
            **geometry_codec.FIELDS,
            "codes": (np.dtype(np.uint8), ()),
        }

    def encode(self, features: LocalFeatures) -> Fields:
        """Returns the fields; `codes` is the bits of all features, one after the other."""
        codes = self.quantize(features.descriptors)
        return {**encode_geometry(features), "codes": _pack(codes, self._bits)}

    def decode(self, fields: Fields) -> LocalFeatures:
        """Returns the features with the descriptors that their codes stand for.

        Raises:
          InputError: fields that do not belong together.
        """
        return decode_geometry(fields, self.reconstruct(self._codes(fields)))

    def tensors(self) -> Fields:
        """Returns the codebook."""
        return {"codebook": self.codebook}

    def quantize(self, descriptors: np.ndarray) -> np.ndarray:
        """Returns the nearest centroid in each subspace, uint8 [N, M], of descriptors [N, D]."""
        vectors = as_array("descriptors", descriptors, ("N", self.dim))
        num_subspaces, _, width = self.codebook.shape
        subspaces = vectors.reshape(-1, num_subspaces, width).transpose(1, 0, 2)
        codes = np.empty((len(vectors), num_subspaces), np.uint8)
        for subspace, (vectors, centroids) in enumerate(zip(subspaces, self.codebook)):
            # |x - c|² less |x|², which does not change the nearest.
            distances = (centroids**2).sum(1) - 2 * (vectors @ centroids.T)
            codes[:, subspace] = distances.argmin(axis=1)
        return codes

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """Returns the descriptors, float32 [N, D], that codes [N, M] stand for."""
        rows = self.codebook[np.arange(len(self.codebook)), codes]
        return rows.reshape(len(codes), self.dim)

    def _codes(self, fields: Fields) -> np.ndarray:
        """Returns the codes, uint8 [N, M], of stored fields."""
        num, packed = len(fields["scores"]), fields["codes"]
        num_bits = num * len(self.codebook) * self._bits
        require(
            len(packed) == (num_bits + 7) // 8,
            f"The codes of {num} features must take {(num_bits + 7) // 8} bytes.",
            codes=packed,
        )
        return _unpack(packed, num, len(self.codebook), self._bits)


def train(name: str, descriptors: np.ndarray, *, seed: int = 0) -> ProductQuantizer:
    """Learns a product quantizer from example descriptors, by k-means in each subspace.

    Args:
      name: "pqMxB": M subspaces of B bits; "pq10x5" is the DELF paper's for 40-D,
        "pq32x8" and "pq64x8" are 32 and 64 bytes for 128-D.
      descriptors: float32 [N, D], N at least 2^B, D a multiple of M; beyond 16384 a random
        part of them is used.
      seed: of that choice and of the k-means.

    Raises:
      InputError: another form of name, too few descriptors, or a width that M does not divide.
    """
    import faiss  # noqa: PLC0415 - only training needs it, and it is slow to load

    num_subspaces, bits = _parse(name)
    vectors = as_array("descriptors", descriptors, ("N", "D"))
    num, dim = vectors.shape
    require(
        dim > 0 and dim % num_subspaces == 0,
        f"{name} must be trained on descriptors whose width is a multiple of {num_subspaces}.",
        dim=dim,
    )
    require(
        num >= 1 << bits,
        f"{name} must be trained on at least {1 << bits} descriptors.",
        num_descriptors=num,
    )
    vectors = _sample(vectors, _MAX_SAMPLES, seed)
    with one_thread():
        quantizer = faiss.ProductQuantizer(dim, num_subspaces, bits)
        quantizer.cp.seed = seed
        # Otherwise faiss prints a warning below 39 examples a centroid.
        quantizer.cp.min_points_per_centroid = 1
        quantizer.train(vectors)
    codebook = faiss.vector_to_array(quantizer.centroids)
    shape = (num_subspaces, 1 << bits, dim // num_subspaces)
    return ProductQuantizer(name, codebook.reshape(shape))


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps sums in one order on every machine, and from spinning on a busy one."""
    import faiss  # noqa: PLC0415

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _sample(vectors: np.ndarray, limit: int, seed: int) -> np.ndarray:
    if len(vectors) <= limit:
        return vectors
    rows = np.random.default_rng(seed).choice(len(vectors), limit, replace=False)
    return np.ascontiguousarray(vectors[np.sort(rows)])


def _parse(name: str) -> tuple[int, int]:
    match = NAME_PATTERN.fullmatch(name)
    if match is None:
        raise invalid(
            "A product quantizer's name must be pqMxB: M subspaces, B of 1 to 8 bits.",
            hint="Such as pq10x5 for 40-D or pq32x8 for 128-D.",
            name=name,
        )
    return int(match["subspaces"]), int(match["bits"])


def _pack(codes: np.ndarray, bits: int) -> np.ndarray:
    one_bit = codes.reshape(-1, 1) >> np.arange(bits, dtype=np.uint8) & 1
    return np.packbits(one_bit.astype(np.uint8), bitorder="little")


def _unpack(packed: np.ndarray, num: int, num_subspaces: int, bits: int) -> np.ndarray:
    one_bit = np.unpackbits(packed, count=num * num_subspaces * bits, bitorder="little")
    weights = np.uint8(1) << np.arange(bits, dtype=np.uint8)
    codes = (one_bit.reshape(-1, bits) * weights).sum(axis=1, dtype=np.uint8)
    return codes.reshape(num, num_subspaces)
