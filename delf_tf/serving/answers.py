"""What is asked and answered: a visitor's choices, results, matches."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from delf_tf.checks import InputError
from delf_tf.types import Box


class UnknownItemError(InputError):
    """A number or a token that names nothing here."""


class ConflictError(InputError):
    """A change that what is there does not allow."""


class Choices(NamedTuple):
    """What a visitor chooses.

    Attributes:
      num_results: hits of each mode.
      method: of the second stage; None: the usual one.
      combine: of several pictures, a row of `combination.COMBINED`.
    """

    num_results: int = 24
    method: str | None = None
    combine: str = "mean"


@dataclasses.dataclass(frozen=True)
class Hit:
    """One result.

    Attributes:
      number: of the image in the collection.
      id: of the image.
      similarity: the first stage's score.
      num_inliers: the most that one of the query's pictures has; None if no pair was verified.
    """

    number: int
    id: str
    similarity: float
    num_inliers: int | None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a query gives, in Python and as JSON.

    Attributes:
      token: names the query in `matches`, `search` and `answer`, for a while.
      height, width: of the whole first picture, pixels.
      box: (y0, x0, y1, x1) of its part that was searched with.
      num_pictures: of the query.
      method: of the second stage, or None.
      single_stage: best first.
      two_stage: best first; None if there is no second stage.
      seconds: by stage.
    """

    token: str
    height: int
    width: int
    box: Box
    num_pictures: int
    method: str | None
    single_stage: list[Hit]
    two_stage: list[Hit] | None
    seconds: dict[str, float]


class Matches(NamedTuple):
    """A verified pair.

    Attributes:
      picture: which of the query's it is, from 0: that with the most inliers.
      query_points: float [M, 2], (y, x) of the whole picture.
      database_points: float [M, 2], (y, x) of the collection's image.
      inliers: bool [M].
      transform: [3, 3], homogeneous (x, y, 1), from the searched part of the picture to the
        database image.
    """

    picture: int
    query_points: np.ndarray
    database_points: np.ndarray
    inliers: np.ndarray
    transform: np.ndarray
