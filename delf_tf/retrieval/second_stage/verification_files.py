"""Verifications on disk: a folder with one file a block of queries, so that a killed run goes on.

manifest.json names the format, the fingerprint of all that the verifications depend on, and the
queries; block-00000.npz and so on hold the ragged arrays of `block_size` queries each.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from delf_tf.artifacts import StrPath, write_json
from delf_tf.checks import invalid, require
from delf_tf.npz import read_npz, write_npz
from delf_tf.types import Verification

_FORMAT = 1
_ARRAYS = ("counts", "rows", "similarity", "transforms", "num_matches", "matches", "inliers")
_HINT = "The file is damaged; delete it, and the run makes it again."


@dataclasses.dataclass(frozen=True, eq=False)
class VerifiedHead:
    """What verification found for one query's C candidates, in first-stage order.

    Attributes:
      rows: int64 [C], rows of the database.
      similarity: float32 [C], sum of the inliers' descriptor similarities.
      verifications: C verifications.
      learned: float64 [C], learned similarities; None: they were not computed.
    """

    rows: np.ndarray
    similarity: np.ndarray
    verifications: tuple[Verification, ...]
    learned: np.ndarray | None = None

    def num_inliers(self) -> np.ndarray:
        """Returns int64 [C]."""
        return np.array([one.num_inliers for one in self.verifications], np.int64)

    def by_row(self) -> dict[int, Verification]:
        """Returns the verifications by database row."""
        return dict(zip(self.rows.tolist(), self.verifications))


class VerificationFolder(Sequence[Mapping[int, Verification]]):
    """The verifications of Q queries in a folder; item q gives those of query q by database row.

    Only the block that was read last stays in memory.
    """

    def __init__(
        self,
        path: StrPath,
        query_ids: Sequence[str],
        fingerprint: str,
        *,
        block_size: int = 8,
    ):
        """Opens a folder, or begins one.

        Args:
          path: the folder.
          query_ids: Q ids.
          fingerprint: of everything that the verifications depend on.
          block_size: queries a file, the most that a killed run repeats.

        Raises:
          InputError: a folder of other queries or another fingerprint, a block size below 1.
        """
        require(block_size >= 1, "block_size must be 1 or more.", block_size=block_size)
        self.path = Path(path)
        self.query_ids = tuple(query_ids)
        self.block_size = block_size
        manifest = self.path / "manifest.json"
        facts = {
            "format": _FORMAT,
            "fingerprint": fingerprint,
            "block_size": block_size,
            "query_ids": list(self.query_ids),
        }
        if not manifest.exists():
            write_json(manifest, facts)
        found = _read_manifest(manifest)
        require(
            found == facts,
            "The folder must hold verifications of this ranking, these features and settings.",
            hint="Choose another folder, or delete this one.",
            path=self.path,
            fingerprint=found["fingerprint"],
            expected=fingerprint,
        )
        self._last: tuple[int, list[VerifiedHead]] | None = None

    def __len__(self) -> int:
        return len(self.query_ids)

    @overload
    def __getitem__(self, query: int) -> Mapping[int, Verification]: ...

    @overload
    def __getitem__(self, query: slice) -> Sequence[Mapping[int, Verification]]: ...

    def __getitem__(
        self, query: int | slice
    ) -> Mapping[int, Verification] | Sequence[Mapping[int, Verification]]:
        """Returns what was found for one query, by database row in first-stage order."""
        if isinstance(query, slice):
            return [self[one] for one in range(*query.indices(len(self)))]
        query = range(len(self))[query]
        return self.heads(query // self.block_size)[query % self.block_size].by_row()

    def blocks(self) -> Iterator[tuple[int, range]]:
        """Yields each block's number and its queries."""
        for block, start in enumerate(range(0, len(self), self.block_size)):
            yield block, range(start, min(start + self.block_size, len(self)))

    def has(self, block: int) -> bool:
        """Whether a block is done."""
        return self._file(block).exists()

    def write(self, block: int, heads: Sequence[VerifiedHead]) -> None:
        """Writes a block's heads, atomically."""
        write_npz(self._file(block), _pack(heads))

    def heads(self, block: int) -> list[VerifiedHead]:
        """Reads a block.

        Raises:
          InputError: not done, or damaged.
        """
        if self._last is None or self._last[0] != block:
            arrays = read_npz(self._file(block), _ARRAYS, ("learned",), hint=_HINT)
            start = block * self.block_size
            num = len(range(start, min(start + self.block_size, len(self))))
            self._last = (block, _unpack(arrays, num, self._file(block)))
        return self._last[1]

    def _file(self, block: int) -> Path:
        return self.path / f"block-{block:05}.npz"


def load_verifications(path: StrPath) -> VerificationFolder:
    """Opens a folder of verifications to read it.

    Raises:
      InputError: no such folder, or not one of verifications.
    """
    manifest = Path(path) / "manifest.json"
    require(manifest.is_file(), "The folder must hold verifications.", path=Path(path))
    facts = _read_manifest(manifest)
    return VerificationFolder(
        path, facts["query_ids"], facts["fingerprint"], block_size=facts["block_size"]
    )


def _read_manifest(path: Path) -> dict:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        fits = (
            facts["format"] == _FORMAT
            and isinstance(facts["fingerprint"], str)
            and isinstance(facts["block_size"], int)
            and all(isinstance(one, str) for one in facts["query_ids"])
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        fits = False
    if not fits:
        raise invalid("The manifest must be one of verifications.", path=path)
    return dict(facts)


def _pack(heads: Sequence[VerifiedHead]) -> dict[str, np.ndarray]:
    found = [one for head in heads for one in head.verifications]
    learned = [head.learned for head in heads if head.learned is not None]
    return {
        **({"learned": np.concatenate(learned)} if learned else {}),
        "counts": np.array([len(head.rows) for head in heads], np.int64),
        "rows": np.concatenate([np.zeros(0, np.int64), *(head.rows for head in heads)]),
        "similarity": np.concatenate(
            [np.zeros(0, np.float32), *(head.similarity for head in heads)]
        ),
        "transforms": np.array([one.transform for one in found]).reshape(-1, 3, 3),
        "num_matches": np.array([len(one.matches) for one in found], np.int64),
        "matches": np.concatenate(
            [np.zeros((0, 2), np.int32), *(one.matches.astype(np.int32) for one in found)]
        ),
        "inliers": np.concatenate([np.zeros(0, bool), *(one.inlier_mask for one in found)]),
    }


def _unpack(arrays: dict[str, np.ndarray], num_heads: int, path: Path) -> list[VerifiedHead]:
    shapes = {name: array.shape for name, array in arrays.items()}
    counts, num_matches = arrays["counts"], arrays["num_matches"]
    whole = counts.dtype.kind == num_matches.dtype.kind == "i"
    whole = whole and bool((counts >= 0).all() and (num_matches >= 0).all())
    num, total = (int(counts.sum()), int(num_matches.sum())) if whole else (0, 0)
    expected = {
        "counts": (num_heads,),
        "rows": (num,),
        "similarity": (num,),
        "transforms": (num, 3, 3),
        "num_matches": (num,),
        "matches": (total, 2),
        "inliers": (total,),
        **({"learned": (num,)} if "learned" in arrays else {}),
    }
    require(
        whole and shapes == expected,
        "The block's arrays must fit each other.",
        hint=_HINT,
        shapes=shapes,
        path=path,
    )
    found = [
        Verification(int(np.count_nonzero(mask)), transform, matches, mask)
        for transform, matches, mask in zip(
            arrays["transforms"],
            _split(arrays["matches"], num_matches),
            _split(arrays["inliers"], num_matches),
        )
    ]
    starts = np.cumsum(counts) - counts
    learned: Sequence[np.ndarray | None] = [None] * num_heads
    if "learned" in arrays:
        learned = _split(arrays["learned"], counts)
    return [
        VerifiedHead(rows, similarity, tuple(found[start : start + len(rows)]), compared)
        for start, rows, similarity, compared in zip(
            starts, _split(arrays["rows"], counts), _split(arrays["similarity"], counts), learned
        )
    ]


def _split(array: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Returns consecutive pieces of the given sizes."""
    return np.split(array, np.cumsum(sizes)[:-1]) if len(sizes) else []
