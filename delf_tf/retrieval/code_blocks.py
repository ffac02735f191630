"""An inverted file of product codes, laid out as `block_scan` reads them: 64 codes a block.

A block holds the low four bits of its codes, two parts a byte and 64 bytes a pair of parts; then,
for each further bit, a word of 64 bits a part. So 50 bits a code of PQ10x5, without padding but
that of a list's last block. In files the codes are rows, which any version can read.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from delf_tf.retrieval import code_kernels
from delf_tf.retrieval.block_scan import BLOCK
from delf_tf.retrieval.index_file import IndexContent
from delf_tf.retrieval.words.posting_lists import PostingLists


class Blocks(NamedTuple):
    """Lists of codes.

    Attributes:
      offsets: int64 [C + 1]; list i has the postings offsets[i] to offsets[i + 1].
      owners: uint32 [P], the feature of each posting, ascending in a list.
      starts: int64 [C + 1]; list i has the blocks starts[i] to starts[i + 1].
      blocks: uint8 [B, bytes], codes in the postings' order.
    """

    offsets: np.ndarray
    owners: np.ndarray
    starts: np.ndarray
    blocks: np.ndarray


class CodeLists:
    """`num_lists` lists of (feature, code of `num_parts` times `num_bits` bits)."""

    def __init__(self, num_lists: int, num_parts: int, num_bits: int):
        """Makes empty lists."""
        self._shape = num_lists, num_parts, num_bits
        self._code_bytes = -(-num_parts * num_bits // 8)
        # New postings as rows, and all others as blocks.
        self._rows = PostingLists(num_lists, self._code_bytes, np.uint8)
        self._blocks: Blocks | None = None

    def __len__(self) -> int:
        return len(self._rows) + (0 if self._blocks is None else len(self._blocks.owners))

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays, bytes."""
        return sum(array.nbytes for array in self.blocks())

    def append(self, lists: np.ndarray, features: np.ndarray, codes: np.ndarray) -> None:
        """Appends N postings.

        Args:
          lists: int [N], the list of each.
          features: int [N], above all those before.
          codes: uint8 [N, bytes], as `LocalQuantizer.encode` writes them.
        """
        self._rows.append(lists, features, codes)

    def blocks(self) -> Blocks:
        """Returns all lists; the next `append` leaves these arrays as they are."""
        if self._blocks is None or len(self._rows):
            offsets, owners, codes = self._merged().compact()
            starts = np.concatenate([[0], np.cumsum(-(-np.diff(offsets) // BLOCK))])
            _, num_parts, num_bits = self._shape
            block_bytes = code_kernels.block_bytes(num_parts, num_bits)
            blocks = np.zeros((starts[-1], block_bytes), np.uint8)
            code_kernels.pack((offsets, starts), codes, (num_parts, num_bits), blocks)
            self._blocks = Blocks(offsets, owners, starts, blocks)
            self._rows = self._empty_rows()
        return self._blocks

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays by name, as `read` takes them from a file."""
        lists = self.blocks()
        codes = self._unpacked(lists)
        return {"list_offsets": lists.offsets, "owners": lists.owners, "payload": codes}

    def read(self, content: IndexContent, num_features: int) -> None:
        """Takes the lists from a file; arguments and errors as `PostingLists.read`."""
        self._blocks = None
        self._rows = self._empty_rows()
        self._rows.read(content, num_features)

    def _merged(self) -> PostingLists:
        if self._blocks is None:
            return self._rows
        merged, old = self._empty_rows(), self._blocks
        lists = np.repeat(np.arange(self._shape[0]), np.diff(old.offsets))
        merged.append(lists, old.owners, self._unpacked(old))
        offsets, owners, codes = self._rows.compact()
        merged.append(np.repeat(np.arange(self._shape[0]), np.diff(offsets)), owners, codes)
        return merged

    def _unpacked(self, lists: Blocks) -> np.ndarray:
        codes = np.empty((len(lists.owners), self._code_bytes), np.uint8)
        shape = self._shape[1:]
        code_kernels.unpack((lists.offsets, lists.starts), lists.blocks, shape, codes)
        return codes

    def _empty_rows(self) -> PostingLists:
        return PostingLists(self._shape[0], self._code_bytes, np.uint8)
