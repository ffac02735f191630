"""What is searched, and the numbers that name its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from delf_tf.checks import require
from delf_tf.features.blocks import ImageFeatures
from delf_tf.serving.answers import UnknownItemError
from delf_tf.types import ImageRef, LocalFeatures, Ranking, Verification


class Search(Protocol):
    """The first stage: one picture's features in, its ranking out."""

    def __call__(
        self, features: ImageFeatures, *, leave_out: Sequence[str], max_results: int
    ) -> Ranking:
        """Ranks; images of the ids `leave_out` are in no result."""


# The second stage: one picture's ranking and local features in; the new ranking and what was found
# for each verified row of the database out.
Rerank = Callable[[Ranking, LocalFeatures], "tuple[Ranking, Mapping[int, Verification]]"]


class Collection(NamedTuple):
    """What is searched, as it is at one time.

    Attributes:
      refs: the images, at least one.
      extract: gives the features of a uint8 RGB image [H, W, 3], locations in its pixels.
      search: the first stage; its database ids are ids of `refs`.
      methods: of the second stage by name, the usual one first; none for single-stage retrieval.
      read_local: gives the stored local features of an id; needed with `methods`.
      contents: by id what changes with an image's file, where that is known.
    """

    refs: Sequence[ImageRef]
    extract: Callable[[np.ndarray], ImageFeatures]
    search: Search
    methods: Mapping[str, Rerank] = {}
    read_local: Callable[[str], LocalFeatures] | None = None
    contents: Mapping[str, str] = {}


class Numbered:
    """A collection whose images are numbered."""

    def __init__(self, collection: Collection, before: Numbered | None):
        """Numbers the images; those that `before` holds as they are keep their numbers.

        Raises:
          InputError: no images, a second stage without local features.
        """
        require(bool(collection.refs), "A collection must hold at least one image.")
        require(
            not collection.methods or collection.read_local is not None,
            "A second stage must have local features.",
        )
        self.collection = collection
        self.next = 0 if before is None else before.next
        self.numbers: dict[str, int] = {}
        for ref in collection.refs:
            if before is not None and before.has_same(ref.id, collection):
                self.numbers[ref.id] = before.numbers[ref.id]
            else:
                self.numbers[ref.id] = self.next
                self.next += 1
        self._refs = {self.numbers[ref.id]: ref for ref in collection.refs}

    def ref(self, number: int) -> ImageRef:
        """Returns the image of a number.

        Raises:
          UnknownItemError: no such number, or not any more.
        """
        if number not in self._refs:
            raise UnknownItemError("No image of the collection has this number, or not any more.")
        return self._refs[number]

    def has_same(self, name: str, other: Collection) -> bool:
        """Whether an image is in here with the content that `other` knows."""
        there = name in self.numbers
        return there and self.collection.contents.get(name) == other.contents.get(name)
