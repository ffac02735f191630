"""Retrieval behind the page, without HTTP: queries by picture, both modes, matches."""

from __future__ import annotations

import collections
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from delf_tf.checks import require, require_choice
from delf_tf.features.blocks import ImageFeatures
from delf_tf.serving import combination
from delf_tf.serving.answers import Answer, Choices, Hit, Matches, UnknownItemError
from delf_tf.serving.collection import Collection, Numbered, Rerank
from delf_tf.types import Box, ImageRef, Ranking, Verification

# Pictures of one query.
MAX_PICTURES = 8
# Results of the first stage, from which the second chooses; more if more are asked for.
_MIN_DEPTH = 100


class _Picture(NamedTuple):
    height: int
    width: int
    box: Box
    name: str | None
    features: ImageFeatures


class _Query(NamedTuple):
    pictures: list[_Picture]
    found: Mapping[int, tuple[int, Verification]]
    answer: Answer


class RetrievalService:
    """Queries a collection; safe to call from several threads."""

    def __init__(self, collection: Collection, *, num_kept: int = 64):
        """Keeps what is searched.

        Args:
          collection: at first.
          num_kept: queries that can still be asked about.

        Raises:
          InputError: no images, a second stage without local features, num_kept below 1.
        """
        require(num_kept >= 1, "num_kept must be 1 or more.", num_kept=num_kept)
        self._now = Numbered(collection, None)
        self._num_kept = num_kept
        self._queries: collections.OrderedDict[str, _Query] = collections.OrderedDict()
        # The network and the verification use all cores by themselves.
        self._work, self._book = threading.Lock(), threading.Lock()

    def replace(self, collection: Collection) -> None:
        """Searches another collection from now on; queries that are worked on end in the old one.

        Raises:
          InputError: as the constructor.
        """
        self._now = Numbered(collection, self._now)

    @property
    def refs(self) -> Sequence[ImageRef]:
        """The images."""
        return self._now.collection.refs

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the second stage's methods, the usual one first."""
        return tuple(self._now.collection.methods)

    def page(self, offset: int, limit: int) -> list[tuple[int, ImageRef]]:
        """Returns some images with their numbers, which name them as long as they do not change."""
        now = self._now
        return [(now.numbers[r.id], r) for r in now.collection.refs[offset : offset + limit]]

    def ref(self, number: int) -> ImageRef:
        """Returns the collection's image of that number.

        Raises:
          UnknownItemError: no such number, or not any more.
        """
        return self._now.ref(number)

    def query(
        self,
        image: np.ndarray,
        *,
        box: Box | None = None,
        number: int | None = None,
        choices: Choices = Choices(),  # noqa: B008 - immutable
    ) -> Answer:
        """Searches with a picture, or a part of it.

        Args:
          image: uint8 RGB [H, W, 3].
          box: (y0, x0, y1, x1) in its pixels; None for all of it.
          number: of the image, if it is one of the collection; it is then left out of the results.
          choices: what is wanted.

        Raises:
          InputError: a box of less than one pixel, an image too small for the network, choices that
            are not there.
        """
        part, box = _crop(image, box)
        name = None if number is None else self.ref(number).id
        with self._work:
            start = time.perf_counter()
            features = self._now.collection.extract(part)
            seconds = {"extract": time.perf_counter() - start}
            return self._search([_Picture(*image.shape[:2], box, name, features)], choices, seconds)

    def search(self, tokens: Sequence[str], choices: Choices) -> Answer:
        """Searches with the pictures of earlier queries, as one query.

        Args:
          tokens: of the queries.
          choices: what is wanted.

        Raises:
          UnknownItemError: a query is not kept any more.
          InputError: no picture or more than MAX_PICTURES, choices that are not there.
        """
        pictures = [picture for token in tokens for picture in self._query(token).pictures]
        require(
            1 <= len(pictures) <= MAX_PICTURES,
            f"A query must have 1 to {MAX_PICTURES} pictures.",
            num_pictures=len(pictures),
        )
        with self._work:
            return self._search(pictures, choices, {})

    def answer(self, token: str) -> Answer:
        """Returns what an earlier query gave.

        Raises:
          UnknownItemError: it is not kept any more.
        """
        return self._query(token).answer

    def matches(self, token: str, number: int) -> Matches:
        """Returns the matched points of an earlier query and an image.

        Raises:
          UnknownItemError: the query is not kept any more, the image is gone, or the pair was not
            verified.
        """
        now, query = self._now, self._query(token)
        ref = now.ref(number)
        if number not in query.found:
            raise UnknownItemError("This pair was not verified.")
        at, one = query.found[number]
        picture = query.pictures[at]
        database = now.collection.read_local(ref.id)
        return Matches(
            at,
            picture.features.local.locations[one.matches[:, 0]] + np.asarray(picture.box[:2]),
            database.locations[one.matches[:, 1]],
            one.inlier_mask,
            one.transform,
        )

    def _query(self, token: str) -> _Query:
        with self._book:
            query = self._queries.get(token)
        if query is None:
            raise UnknownItemError("This query is not kept any more; search again.")
        return query

    def _search(
        self, pictures: list[_Picture], choices: Choices, seconds: dict[str, float]
    ) -> Answer:
        now = self._now
        methods = now.collection.methods
        method = choices.method or next(iter(methods), None)
        require_choice("method", method, methods or [None])
        require_choice("combine", choices.combine, combination.COMBINED)
        local = all(one.features.local is not None for one in pictures)
        found: dict[int, tuple[int, Verification]] = {}
        second = None
        start = time.perf_counter()
        first = self._first_stage(now.collection, pictures, choices)
        seconds["search"] = time.perf_counter() - start
        if method is not None and local:
            start = time.perf_counter()
            second, by_row = _second_stage(methods[method], first, pictures, choices.combine)
            seconds["verify"] = time.perf_counter() - start
            ids = first.database_ids
            found = {now.numbers[ids[row]]: one for row, one in by_row.items()}
        limit = choices.num_results
        head = pictures[0]
        answer = Answer(
            secrets.token_urlsafe(12),
            *(head.height, head.width, head.box, len(pictures)),
            None if second is None else method,
            _hits(now, first, found, limit),
            None if second is None else _hits(now, second, found, limit),
            seconds,
        )
        self._keep(_Query(pictures, found, answer))
        return answer

    def _first_stage(
        self, collection: Collection, pictures: list[_Picture], choices: Choices
    ) -> Ranking:
        leave_out = [one.name for one in pictures if one.name is not None]

        def search(picture: _Picture, depth: int) -> Ranking:
            return collection.search(picture.features, leave_out=leave_out, max_results=depth)

        depth = max(_MIN_DEPTH, choices.num_results)
        return combination.search_together(search, pictures, choices.combine, depth)

    def _keep(self, query: _Query) -> None:
        with self._book:
            self._queries[query.answer.token] = query
            while len(self._queries) > self._num_kept:
                self._queries.popitem(last=False)


def _second_stage(
    rerank: Rerank, first: Ranking, pictures: Sequence[_Picture], combine: str
) -> tuple[Ranking, dict[int, tuple[int, Verification]]]:
    """Re-ranks for each picture; returns the order of all, and each row's best verification."""
    rankings, found = [], {}
    for at, picture in enumerate(pictures):
        ranking, by_row = rerank(first, picture.features.local)
        rankings.append(ranking)
        for row, one in by_row.items():
            if row not in found or one.num_inliers > found[row][1].num_inliers:
                found[row] = at, one
    return combination.order_together(first, rankings, combine), found


def _hits(
    now: Numbered, ranking: Ranking, found: Mapping[int, tuple[int, Verification]], limit: int
) -> list[Hit]:
    hits = []
    for row, score in zip(ranking.indices[0, :limit].tolist(), ranking.scores[0].tolist()):
        if row < 0:
            break
        name = ranking.database_ids[row]
        number = now.numbers[name]
        hits.append(
            Hit(number, name, score, found[number][1].num_inliers if number in found else None)
        )
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
