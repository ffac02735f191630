"""The original DELF's files of aggregated images: .vlad, .rvlad and the .asmk family.

A .vlad or .rvlad file is one array; the others are a pair, the vectors in one run and the visual
words. What is read and written again has the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, as_array, invalid, require
from delf_tf.features.formats import delf_format
from delf_tf.retrieval.words.aggregation import AggregatedWords

VLAD_SUFFIXES = (".vlad", ".rvlad")
ASMK_SUFFIXES = (".asmk", ".asmk_star", ".rasmk", ".rasmk_star")
_BINARY_SUFFIXES = (".asmk_star", ".rasmk_star")


def write_vlad(path: StrPath, vector: np.ndarray) -> Path:
    """Writes a VLAD vector [K · D] atomically and returns the path.

    Raises:
      InputError: not one finite vector.
    """
    return delf_format.write_datum(path, as_array("vector", vector, ("K·D",)))


def read_vlad(path: StrPath) -> np.ndarray:
    """Returns the float32 [K · D] vector of a .vlad or .rvlad file.

    Raises:
      InputError: no such file, damaged, or not one vector of floats.
    """
    vector = delf_format.read_datum(path)
    require(vector.dtype == np.float32, "A VLAD file must hold floats.", path=Path(path))
    return as_array(f"{Path(path).name}'s vector", vector, ("K·D",))


def write_asmk(path: StrPath, image: AggregatedWords) -> Path:
    """Writes an image's words atomically and returns the path.

    Args:
      path: its suffix is one of `ASMK_SUFFIXES`, of the image's kind.
      image: signs for `.asmk_star` and `.rasmk_star`, else normalised residuals.

    Raises:
      InputError: a suffix of the other kind.
    """
    _require_kind(path, image.binary)
    return delf_format.write_datum_pair(
        path, image.vectors.reshape(-1), image.words.astype(np.uint32)
    )


def read_asmk(path: StrPath, dim: int) -> AggregatedWords:
    """Reads an image's words.

    Args:
      path: its suffix, one of `ASMK_SUFFIXES`, tells signs from residuals.
      dim: width D of the codebook; the file does not tell it.

    Raises:
      InputError: no such file, damaged, of another width or another kind.
    """
    path = Path(path)
    require(isinstance(dim, (int, np.integer)) and dim >= 1, "dim must be positive.", dim=dim)
    vectors, words = delf_format.read_datum_pair(path)
    binary = vectors.dtype == np.uint32 if vectors.size else path.suffix in _BINARY_SUFFIXES
    _require_kind(path, binary)
    try:
        if binary:
            bytes_fit = bool((vectors <= 255).all())
            require(bytes_fit, "Packed signs must be bytes.", vectors=vectors)
            vectors = vectors.astype(np.uint8)
        width = -(-dim // 8) if binary else dim
        require(
            vectors.size == words.size * width,
            f"An .asmk file must hold {width} values a word at dim {dim}.",
            num_values=vectors.size,
            num_words=words.size,
        )
        integers = words.dtype == np.uint32 or not words.size
        require(integers, "Visual words must be unsigned integers.", words=words)
        return AggregatedWords(words.reshape(-1), vectors.reshape(-1, width), dim)
    except InputError as error:
        raise invalid(str(error), path=path) from None


def _require_kind(path: StrPath, binary: bool) -> None:
    suffixes = [one for one in ASMK_SUFFIXES if (one in _BINARY_SUFFIXES) == binary]
    require(
        Path(path).suffix in suffixes,
        f"The file of {'signs' if binary else 'residuals'} must end in {' or '.join(suffixes)}.",
        path=Path(path),
    )
