"""Retrieval behind the page, without HTTP: queries by picture, both modes, matches."""

from __future__ import annotations

import collections
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from delf_tf.checks import InputError, require
from delf_tf.features.blocks import ImageFeatures
from delf_tf.types import Box, ImageRef, LocalFeatures, Ranking, Verification


class UnknownItemError(InputError):
    """A number or a token that names nothing here."""


class Search(Protocol):
    """The first stage: one query's features in, its ranking out."""

    def __call__(self, features: ImageFeatures, *, name: str | None) -> Ranking:
        """Ranks; `name` is the query's id if it is an image of the collection, to be left out."""


# The second stage: one query's ranking and local features in; the new ranking and what was found
# for each verified row of the database out.
Rerank = Callable[[Ranking, LocalFeatures], "tuple[Ranking, Mapping[int, Verification]]"]


class Hit(NamedTuple):
    """One result.

    Attributes:
      number: of the image in the collection.
      id: of the image.
      similarity: the first stage's score.
      num_inliers: None if the pair was not verified.
    """

    number: int
    id: str
    similarity: float
    num_inliers: int | None


class Answer(NamedTuple):
    """What a query gives.

    Attributes:
      token: names the query in `matches`, for a while.
      height, width: of the whole query image, pixels.
      box: (y0, x0, y1, x1) of the part that was searched with.
      single_stage: best first.
      two_stage: best first; None if there is no second stage.
      seconds: by stage.
    """

    token: str
    height: int
    width: int
    box: Box
    single_stage: list[Hit]
    two_stage: list[Hit] | None
    seconds: dict[str, float]


class Matches(NamedTuple):
    """A verified pair.

    Attributes:
      query_points: float [M, 2], (y, x) of the whole query image.
      database_points: float [M, 2], (y, x) of the collection's image.
      inliers: bool [M].
      transform: [3, 3], homogeneous (x, y, 1), from the searched part of the query to the database
        image.
    """

    query_points: np.ndarray
    database_points: np.ndarray
    inliers: np.ndarray
    transform: np.ndarray


class _Query(NamedTuple):
    origin: tuple[float, float]
    local: LocalFeatures | None
    found: Mapping[int, Verification]


class RetrievalService:
    """Queries a collection; safe to call from several threads."""

    def __init__(
        self,
        refs: Sequence[ImageRef],
        extract: Callable[[np.ndarray], ImageFeatures],
        search: Search,
        *,
        rerank: Rerank | None = None,
        read_local: Callable[[str], LocalFeatures] | None = None,
        num_results: int = 24,
        num_kept: int = 64,
    ):
        """Keeps the parts.

        Args:
          refs: the collection; a place in it is an image's number.
          extract: gives the features of a uint8 RGB image [H, W, 3], locations in its pixels.
          search: the first stage; its database ids are ids of `refs`.
          rerank: the second stage; None for single-stage retrieval.
          read_local: gives the stored local features of an id; needed with `rerank`.
          num_results: hits given for each mode.
          num_kept: queries whose matches can still be asked for.

        Raises:
          InputError: no images, a second stage without `read_local`, counts below 1.
        """
        require(bool(refs), "A collection must hold at least one image.")
        require(
            rerank is None or read_local is not None, "A second stage must have local features."
        )
        for name, value in (("num_results", num_results), ("num_kept", num_kept)):
            require(value >= 1, f"{name} must be 1 or more.", **{name: value})
        self.refs = tuple(refs)
        self._number = {ref.id: number for number, ref in enumerate(self.refs)}
        self._extract, self._search, self._rerank = extract, search, rerank
        self._read_local = read_local
        self._num_results, self._num_kept = num_results, num_kept
        self._queries: collections.OrderedDict[str, _Query] = collections.OrderedDict()
        # The network and the verification use all cores by themselves.
        self._work, self._book = threading.Lock(), threading.Lock()

    @property
    def has_two_stages(self) -> bool:
        """Whether answers have a `two_stage`."""
        return self._rerank is not None

    def ref(self, number: int) -> ImageRef:
        """Returns the collection's image of that number.

        Raises:
          UnknownItemError: no such number.
        """
        if not 0 <= number < len(self.refs):
            raise UnknownItemError(f"An image's number must lie in 0..{len(self.refs) - 1}.")
        return self.refs[number]

    def query(
        self, image: np.ndarray, *, box: Box | None = None, number: int | None = None
    ) -> Answer:
        """Searches with a picture, or a part of it.

        Args:
          image: uint8 RGB [H, W, 3].
          box: (y0, x0, y1, x1) in its pixels; None for all of it.
          number: of the image, if it is one of the collection; it is then left out of the results.

        Raises:
          InputError: a box of less than one pixel, an image too small for the network.
        """
        part, box = _crop(image, box)
        name = None if number is None else self.ref(number).id
        seconds: dict[str, float] = {}
        found: dict[int, Verification] = {}
        second = None
        with self._work:
            start = time.perf_counter()
            features = self._extract(part)
            seconds["extract"] = time.perf_counter() - start
            start = time.perf_counter()
            first = self._search(features, name=name)
            seconds["search"] = time.perf_counter() - start
            if self._rerank is not None and features.local is not None:
                start = time.perf_counter()
                second, by_row = self._rerank(first, features.local)
                seconds["verify"] = time.perf_counter() - start
                ids = first.database_ids
                found = {self._number[ids[row]]: one for row, one in by_row.items()}
        token = self._keep(_Query((box[0], box[1]), features.local, found))
        return Answer(
            token,
            *image.shape[:2],
            box,
            self._hits(first, found),
            None if second is None else self._hits(second, found),
            seconds,
        )

    def matches(self, token: str, number: int) -> Matches:
        """Returns the matched points of an earlier query and an image.

        Raises:
          UnknownItemError: the query is not kept any more, or the pair was not verified.
        """
        ref = self.ref(number)
        with self._book:
            query = self._queries.get(token)
        if query is None:
            raise UnknownItemError("This query is not kept any more; search again.")
        if query.local is None or number not in query.found:
            raise UnknownItemError("This pair was not verified.")
        one = query.found[number]
        database = self._read_local(ref.id)
        return Matches(
            query.local.locations[one.matches[:, 0]] + np.asarray(query.origin),
            database.locations[one.matches[:, 1]],
            one.inlier_mask,
            one.transform,
        )

    def _keep(self, query: _Query) -> str:
        token = secrets.token_urlsafe(12)
        with self._book:
            self._queries[token] = query
            while len(self._queries) > self._num_kept:
                self._queries.popitem(last=False)
        return token

    def _hits(self, ranking: Ranking, found: Mapping[int, Verification]) -> list[Hit]:
        hits = []
        for row, score in zip(ranking.indices[0].tolist(), ranking.scores[0].tolist()):
            if row < 0 or len(hits) == self._num_results:
                break
            one = ranking.database_ids[row]
            number = self._number[one]
            inliers = found[number].num_inliers if number in found else None
            hits.append(Hit(number, one, score, inliers))
        return hits


def _crop(image: np.ndarray, box: Box | None) -> tuple[np.ndarray, Box]:
    height, width = image.shape[:2]
    y0, x0, y1, x1 = (0, 0, height, width) if box is None else (round(edge) for edge in box)
    y0, x0, y1, x1 = max(y0, 0), max(x0, 0), min(y1, height), min(x1, width)
    require(
        y0 < y1 and x0 < x1,
        "A box must hold at least one pixel of the image.",
        box=box,
        height=height,
        width=width,
    )
    return np.ascontiguousarray(image[y0:y1, x0:x1]), (y0, x0, y1, x1)
