"""Database vectors in memory or in mapped files, as float32 or float16."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from delf_tf.checks import require, require_choice

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
}


class VectorTable:
    """N vectors of width D in the pieces they were added in; none of them is copied together."""

    def __init__(self, dtype: str = "float32"):
        """Makes an empty table.

        Args:
          dtype: "float32", or "float16" for half the memory; vectors are handed out as float32.
        """
        require_choice("dtype", dtype, DTYPES)
        self.dtype = DTYPES[dtype]
        self._pieces: list[np.ndarray] = []
        self._starts = np.zeros(1, np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Returns float32 [..., D], as `take`: a table can stand where an array [N, D] is read."""
        return self.take(rows)

    @property
    def ndim(self) -> int:
        """2, as of an array of vectors."""
        return 2

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self), self.dim

    @property
    def dim(self) -> int:
        """Width D; 0 while the table is empty."""
        return int(self._pieces[0].shape[1]) if self._pieces else 0

    @property
    def num_bytes(self) -> int:
        """Size of the vectors."""
        return len(self) * self.dim * self.dtype.itemsize

    def append(self, vectors: np.ndarray) -> None:
        """Adds float vectors [M, D], mapped ones too; kept as they are if the dtype is the table's.

        Raises:
          InputError: vectors of another width.
        """
        require(
            not self._pieces or vectors.shape[1] == self.dim,
            f"Vectors must have the width of those before them, {self.dim}.",
            vectors=vectors,
        )
        self._pieces.append(np.asarray(vectors, self.dtype))
        self._starts = np.append(self._starts, len(self) + len(vectors))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Returns float32 [..., D], the vectors at integer `rows` [...]."""
        flat = np.asarray(rows).ravel()
        if len(self._pieces) == 1:
            taken = self._pieces[0][flat].astype(np.float32, copy=False)
        else:
            taken = np.empty((len(flat), self.dim), np.float32)
            owner = np.searchsorted(self._starts, flat, side="right") - 1
            for piece in np.unique(owner):
                mine = owner == piece
                taken[mine] = self._pieces[piece][flat[mine] - self._starts[piece]]
        return taken.reshape(*np.shape(rows), self.dim)

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (first row, float32 [at most `size`, D]) over all vectors in order."""
        for start, piece in zip(self._starts, self._pieces):
            for first in range(0, len(piece), size):
                block = piece[first : first + size]
                yield int(start) + first, np.asarray(block, np.float32)

    def pieces(self) -> Iterator[np.ndarray]:
        """Yields the vectors as they are stored, in order, in parts: see tensor_file."""
        for piece in self._pieces:
            for first in range(0, len(piece), 1 << 14):
                yield np.ascontiguousarray(piece[first : first + (1 << 14)])
