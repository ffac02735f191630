"""PCA of global or local descriptors, with or without whitening."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import as_array, invalid, require
from delf_tf.npz import read_metadata, read_npz, write_npz
from delf_tf.retrieval.ordering import first_largest

_EPSILON = 1e-12
_BATCH = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Whitening:
    """An affine map between two L2 normalisations: x → L2(P (L2(x) − mean)).

    Attributes:
      mean: float32 [D].
      projection: float32 [d, D], d at most D; for whitening already divided by the standard
        deviations.
      kind: "pca" or "pca_whitening".
    """

    mean: np.ndarray
    projection: np.ndarray
    kind: str

    def __post_init__(self) -> None:
        mean = as_array("Whitening.mean", self.mean, ("D",), np.float32)
        projection = as_array("Whitening.projection", self.projection, ("d", len(mean)), np.float32)
        require(
            len(projection) <= len(mean),
            "Whitening.projection must not have more rows than columns.",
            projection=projection,
        )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "projection", projection)

    @property
    def input_dim(self) -> int:
        """Width D that it takes."""
        return len(self.mean)

    @property
    def output_dim(self) -> int:
        """Width d that it gives."""
        return len(self.projection)

    def apply(self, vectors: np.ndarray) -> np.ndarray:
        """Returns float32 [N, d] with rows of L2 norm 1 for float vectors [N, D]; N may be 0.

        A vector that the projection sends to zero stays zero.

        Raises:
          InputError: another width, NaN.
        """
        vectors = as_array("vectors", vectors, ("N", self.input_dim), np.float32)
        whitened = np.empty((len(vectors), self.output_dim), np.float32)
        for start in range(0, len(vectors), _BATCH):
            batch = slice(start, start + _BATCH)
            # In float32, equal vectors would come out unequal, by their place in the product.
            centred = l2_normalize(vectors[batch].astype(np.float64)) - self.mean
            whitened[batch] = l2_normalize(centred @ self._columns)
        return whitened

    @functools.cached_property
    def _columns(self) -> np.ndarray:
        """The projection, float64 [D, d]."""
        return self.projection.T.astype(np.float64)


def l2_normalize(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors [..., D] divided by their L2 norms; zero vectors stay zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, _EPSILON)


def same_whitening(one: Whitening | None, other: Whitening | None) -> bool:
    """Tells whether two are the same map, or both none."""
    if one is None or other is None:
        return one is other
    pairs = (one.mean, other.mean), (one.projection, other.projection)
    return all(np.array_equal(*pair) for pair in pairs)


def fit_pca(
    vectors: np.ndarray, dim: int | None = None, *, whiten: bool = True, power: float = 0.5
) -> Whitening:
    """Fits a PCA, with `whiten` one that gives every component variance 1 before the last L2.

    Args:
      vectors: float [N, D], N at least 2; L2-normalised here, as `apply` does.
      dim: components kept, at most min(N − 1, D); None keeps that many.
      whiten: divide each component by its variance to the power of `power`.
      power: in 0..0.5; 0.5 divides by the standard deviation, less leaves strong components
        stronger.

    Raises:
      InputError: too few vectors, NaN, a `dim` that they do not span, a power out of range.
    """
    require(0 <= power <= 0.5, "power must lie in 0..0.5.", power=power)
    vectors = _normalized(vectors)
    dim = _component_count(dim, len(vectors) - 1, vectors.shape[1])
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    variances, components = _leading(centred.T @ centred / (len(vectors) - 1), dim)
    if whiten:
        require(
            bool(variances[-1] > _EPSILON),
            "dim must not exceed the number of components in which the vectors vary.",
            dim=dim,
            smallest_variance=float(variances[-1]),
        )
        components = components / variances[:, None] ** power
    return Whitening(mean, components, "pca_whitening" if whiten else "pca")


def save_whitening(path: StrPath, whitening: Whitening) -> Path:
    """Writes a whitening as .npz (mean, projection, kind), atomically; returns `path`."""
    arrays = {"mean": whitening.mean, "projection": whitening.projection}
    return write_npz(path, arrays, {"kind": whitening.kind})


def load_whitening(path: StrPath) -> Whitening:
    """Reads what `save_whitening` wrote.

    Raises:
      InputError: no such file, damaged, or not a whitening.
    """
    arrays = read_npz(path, ("mean", "projection"), hint="Fit the whitening again.")
    kind = read_metadata(path).get("kind", "pca")
    if kind not in ("pca", "pca_whitening"):
        raise invalid("The whitening's kind must be known.", kind=kind, path=Path(path))
    return Whitening(arrays["mean"], arrays["projection"], kind)


def _normalized(vectors: np.ndarray) -> np.ndarray:
    vectors = as_array("vectors", vectors, ("N", "D"), np.float64)
    require(len(vectors) > 1, "A whitening must be fitted on two or more vectors.", vectors=vectors)
    return l2_normalize(vectors)


def _component_count(dim: int | None, *limits: int) -> int:
    most = min(limits)
    dim = most if dim is None else dim
    require(1 <= dim <= most, f"dim must lie in 1..{most}.", dim=dim)
    return dim


def _leading(covariance: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `dim` largest eigenvalues and their unit vectors as rows, signs fixed."""
    values, vectors = np.linalg.eigh(covariance)
    rows = vectors.T[::-1][:dim]
    largest = np.take_along_axis(rows, first_largest(np.abs(rows))[:, None], axis=1)
    return values[::-1][:dim], rows * np.sign(largest)
