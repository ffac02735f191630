"""An inverted file in three flat arrays: for every list its postings, each an owner and a payload.

Postings are appended in any order of lists and brought together when they are next read. Within a
list they stay in the order of appending, whatever the chunks they came in, so that an index built
in one go and one built in pieces are equal to the byte.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from delf_tf.checks import require
from delf_tf.retrieval.index_file import IndexContent
from delf_tf.retrieval.words import loops


class PostingLists:
    """`num_lists` lists of (owner, payload row)."""

    def __init__(self, num_lists: int, width: int, dtype: Any):
        """Makes empty lists whose payload is an array row of `width` items of `dtype`."""
        self.num_lists = num_lists
        self._offsets = np.zeros(num_lists + 1, np.int64)
        self._owners = np.zeros(0, np.uint32)
        self._payload = np.zeros((0, width), dtype)
        self._pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._owners) + sum(len(owners) for _, owners, _ in self._pending)

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays, bytes."""
        return sum(array.nbytes for array in self.compact())

    def append(self, lists: np.ndarray, owners: np.ndarray, payload: np.ndarray) -> None:
        """Appends N postings.

        Args:
          lists: int [N], the list of each, 0..num_lists - 1.
          owners: int [N], not negative.
          payload: [N, width].
        """
        if len(lists):
            posting = (
                np.ascontiguousarray(lists, np.int64),
                np.ascontiguousarray(owners, np.uint32),
                np.ascontiguousarray(payload, self._payload.dtype),
            )
            with self._lock:
                self._pending.append(posting)

    def compact(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Brings the postings of every list together.

        Returns:
          offsets int64 [num_lists + 1], owners uint32 [P], payload [P, width]: list i has the
          postings offsets[i] to offsets[i + 1].
        """
        with self._lock:
            if self._pending:
                lists, owners, payload = (np.concatenate(part) for part in zip(*self._pending))
                lengths = np.diff(self._offsets)
                grown = lengths + np.bincount(lists, minlength=self.num_lists)
                offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(grown)])
                old = self._offsets, self._owners, self._payload
                target = (
                    offsets,
                    np.empty(offsets[-1], np.uint32),
                    np.empty((offsets[-1], payload.shape[1]), payload.dtype),
                )
                loops.copy_lists(old, target)
                loops.scatter((lists, owners, payload), offsets[:-1] + lengths, target)
                self._offsets, self._owners, self._payload = target
                self._pending = []
            return self._offsets, self._owners, self._payload

    def renumber(self, owners: np.ndarray) -> None:
        """Gives owners other numbers, and sorts every list by them.

        Args:
          owners: int64 [N], the new number of each, -1 to take its postings out.
        """
        offsets, old, payload = self.compact()
        new = owners[old]
        lists = np.repeat(np.arange(self.num_lists), np.diff(offsets))
        kept = np.flatnonzero(new >= 0)
        order = kept[np.lexsort((new[kept], lists[kept]))]
        counts = np.bincount(lists[order], minlength=self.num_lists)
        with self._lock:
            self._offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
            self._owners, self._payload = new[order].astype(np.uint32), payload[order]

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays by name, as `read` takes them from a file."""
        offsets, owners, payload = self.compact()
        stored = payload.view(np.uint8) if payload.dtype == np.uint64 else payload
        return {"list_offsets": offsets, "owners": owners, "payload": stored}

    def read(self, content: IndexContent, num_owners: int) -> None:
        """Takes the lists from a file.

        Args:
          content: a file written with `arrays()` among its arrays.
          num_owners: owners must be below it and ascend in every list.

        Raises:
          InputError: arrays that do not describe such lists.
        """
        width, dtype = self._payload.shape[1], self._payload.dtype
        offsets = content.array("list_offsets", np.int64, (self.num_lists + 1,))
        owners = content.array("owners", np.uint32, (None,))
        if dtype == np.uint64:
            stored = content.array("payload", np.uint8, (len(owners), 8 * width))
        else:
            stored = content.array("payload", dtype, (len(owners), width))
        starts = bool(offsets[0] == 0) and bool((np.diff(offsets) >= 0).all())
        require(
            starts
            and int(offsets[-1]) == len(owners)
            and bool((owners < num_owners).all())
            and loops.owners_ascend(offsets, owners),
            "The index's posting lists must be in order and inside the file.",
            hint="Build the index again.",
            path=content.path,
        )
        self._offsets, self._owners, self._payload = offsets, owners, stored.view(dtype)
        self._pending = []
