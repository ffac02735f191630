"""Google Landmarks v2 (Weyand et al., CVPR 2020): its CSV files, read line by line.

| file | columns |
|---|---|
| train.csv | id, url, landmark_id |
| train_clean.csv | landmark_id, images (ids separated by spaces) |
| index.csv, test.csv | id |
| recognition_solution_*.csv | id, landmarks (numbers; empty: shows no landmark), Usage |
| retrieval_solution_*.csv | id, images (index ids; empty when ignored), Usage |
| recognition predictions | id, landmarks ("LANDMARK SCORE" or empty) |
| retrieval predictions | id, images (index ids, best first, or empty) |

Usage is Public, Private or Ignored; ignored images are no part of the challenge, and what a
solution lists for them is not read.

Version 1 shares train.csv's columns. Its landmarks come from clustering photographs by their place
on the globe: the DELF paper (section 3) calls images a match when they are less than 25 km apart,
so one of its "landmarks" may span a city, and its labels are noisier than those of version 2.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from delf_tf.checks import require
from delf_tf.datasets.tables import StrPath, malformed, read_rows

USAGES = ("Public", "Private", "Ignored")
MAX_RETRIEVED = 100
_IMAGE_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_LANDMARK_ID = re.compile(r"[0-9]{1,18}")


@dataclasses.dataclass(frozen=True)
class Exclusions:
    """What is left out of training because a benchmark tests on it (see `read_exclusions`).

    Attributes:
      landmark_ids: classes left out whole.
      image_ids: further images left out.
    """

    landmark_ids: frozenset[int] = frozenset()
    image_ids: frozenset[str] = frozenset()

    def __contains__(self, image: tuple[str, int]) -> bool:
        """Returns whether an image, given as (image id, landmark id), is left out."""
        return image[1] in self.landmark_ids or image[0] in self.image_ids


def image_path(images_dir: StrPath, image_id: str) -> Path:
    """Returns where the published archives keep an image: `a/b/c/abc….jpg`."""
    require(len(image_id) >= 3, "An image id must have at least 3 characters.", image=image_id)
    return Path(images_dir) / image_id[0] / image_id[1] / image_id[2] / f"{image_id}.jpg"


def read_train(path: StrPath) -> Iterator[tuple[str, int]]:
    """Yields (image id, landmark id) of each line of train.csv.

    Raises:
      InputError: a line is malformed; it names the line. Repeated ids are not looked for.
    """
    for line, (image_id, landmark_id) in read_rows(path, ("id", "landmark_id")):
        yield _image_id(path, line, image_id), _landmark_id(path, line, landmark_id)


def read_train_clean(path: StrPath) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields (landmark id, image ids) of each line of train_clean.csv.

    Raises:
      InputError: a line is malformed, or names a landmark for the second time.
    """
    seen: set[int] = set()
    for line, (landmark_id, images) in read_rows(path, ("landmark_id", "images")):
        landmark = _landmark_id(path, line, landmark_id)
        if landmark in seen:
            raise malformed(path, line, f"landmark {landmark} for the second time")
        seen.add(landmark)
        yield landmark, tuple(_image_id(path, line, one) for one in images.split())


def read_image_ids(path: StrPath) -> list[str]:
    """Reads the ids of index.csv or test.csv.

    Raises:
      InputError: a line is malformed, or names an image for the second time.
    """
    ids: dict[str, None] = {}
    for line, (image_id,) in read_rows(path, ("id",)):
        _new_image_id(path, line, image_id, ids)
        ids[image_id] = None
    return list(ids)


def read_exclusions(path: StrPath) -> Exclusions:
    """Reads what is to be left out of training.

    GLDv2-clean shows landmarks of the revisited Oxford and Paris queries; RGLDv2-clean (Song et
    al., arXiv 2404.01524) is what remains without 1,565 images in 17 classes.

    Args:
      path: a CSV file with a column landmark_id (a class left out whole, or, if the line has a
        column images too, only these of its images) or a column id (one image a line).

    Raises:
      InputError: a line is malformed, or neither column is there.
    """
    columns = ("landmark_id", "images", "id")
    landmarks: set[int] = set()
    images: set[str] = set()
    for line, (landmark_id, listed, image_id) in read_rows(path, (), optional=columns):
        if image_id:
            images.add(_image_id(path, line, image_id))
        elif listed.strip():
            images.update(_image_id(path, line, one) for one in listed.split())
        else:
            landmarks.add(_landmark_id(path, line, landmark_id))
    return Exclusions(frozenset(landmarks), frozenset(images))


def read_recognition_solution(path: StrPath) -> dict[str, tuple[tuple[int, ...], str]]:
    """Reads which landmarks the test images show.

    Returns:
      (landmark ids as listed, usage) by image id; no ids where no landmark is shown.

    Raises:
      InputError: a line is malformed, or names an image for the second time.
    """
    solution: dict[str, tuple[tuple[int, ...], str]] = {}
    for line, image_id, landmarks, usage in _solution_rows(path, "landmarks", solution):
        words = [] if usage == "Ignored" else landmarks.split()
        solution[image_id] = tuple(_landmark_id(path, line, one) for one in words), usage
    return solution


def read_retrieval_solution(path: StrPath) -> dict[str, tuple[tuple[str, ...], str]]:
    """Reads which index images show what the test images show.

    Returns:
      (index image ids as listed, usage) by query id.

    Raises:
      InputError: a line is malformed, or names a query for the second time.
    """
    solution: dict[str, tuple[tuple[str, ...], str]] = {}
    for line, image_id, images, usage in _solution_rows(path, "images", solution):
        # Ignored queries carry words such as None in the published files.
        ids = () if usage == "Ignored" else _image_ids(path, line, images)
        solution[image_id] = ids, usage
    return solution


def read_recognition_predictions(
    path: StrPath, solution: Mapping[str, object] | None = None
) -> dict[str, tuple[int, float]]:
    """Reads a landmark and its score for each test image.

    Args:
      path: the CSV file.
      solution: from `read_recognition_solution`; if given, every id must be one of its ids, and
        predictions for ignored images are left out.

    Returns:
      (landmark id, score) by image id; images with an empty prediction are left out.

    Raises:
      InputError: a line is malformed, or names an image that is unknown or was named before.
    """
    predictions = {}
    for line, image_id, landmarks in _prediction_rows(path, "landmarks", solution):
        tokens = _tokens(landmarks)
        if len(tokens) != 2:
            raise malformed(path, line, f"{len(tokens)} words where a landmark and a score belong")
        predictions[image_id] = _landmark_id(path, line, tokens[0]), _score(path, line, tokens[1])
    return predictions


def read_retrieval_predictions(
    path: StrPath, solution: Mapping[str, object] | None = None
) -> dict[str, tuple[str, ...]]:
    """Reads the index images retrieved for each query, best first, repetitions kept.

    Args:
      path: the CSV file.
      solution: from `read_retrieval_solution`, as in `read_recognition_predictions`.

    Returns:
      Index image ids by query id; queries with an empty prediction are left out.

    Raises:
      InputError: a line is malformed, or names a query that is unknown or was named before.
    """
    return {
        image_id: _image_ids(path, line, images)
        for line, image_id, images in _prediction_rows(path, "images", solution)
    }


def _solution_rows(
    path: StrPath, column: str, known: Mapping[str, object]
) -> Iterator[tuple[int, str, str, str]]:
    for line, (image_id, cell, usage) in read_rows(path, ("id", column, "Usage")):
        _new_image_id(path, line, image_id, known)
        if usage not in USAGES:
            raise malformed(path, line, f"Usage {usage!r:.50} is none of {', '.join(USAGES)}")
        yield line, image_id, cell, usage


def _prediction_rows(
    path: StrPath, column: str, solution: Mapping[str, object] | None
) -> Iterator[tuple[int, str, str]]:
    """Yields (line, image id, cell) of the predictions that are not empty or ignored."""
    seen: dict[str, None] = {}
    for line, (image_id, cell) in read_rows(path, ("id", column)):
        _new_image_id(path, line, image_id, seen)
        seen[image_id] = None
        if solution is not None and image_id not in solution:
            raise malformed(path, line, f"image {image_id!r:.80} is not in the solution")
        ignored = solution is not None and solution[image_id][1] == "Ignored"  # type: ignore[index]
        if cell.strip() and not ignored:
            yield line, image_id, cell


def _tokens(cell: str) -> list[str]:
    """Splits at single spaces; one trailing space is tolerated."""
    return (cell[:-1] if cell.endswith(" ") else cell).split(" ")


def _image_ids(path: StrPath, line: int, cell: str) -> tuple[str, ...]:
    return tuple(_image_id(path, line, one) for one in _tokens(cell)) if cell.strip() else ()


def _image_id(path: StrPath, line: int, text: str) -> str:
    # Ids become paths: one from a hostile file must not lead out of the images' folder.
    if not _IMAGE_ID.fullmatch(text):
        raise malformed(path, line, f"{text!r:.80} is no image id")
    return text


def _new_image_id(path: StrPath, line: int, text: str, known: Mapping[str, object]) -> None:
    if _image_id(path, line, text) in known:
        raise malformed(path, line, f"image {text!r:.80} for the second time")


def _landmark_id(path: StrPath, line: int, text: str) -> int:
    if not _LANDMARK_ID.fullmatch(text):
        raise malformed(path, line, f"{text!r:.80} is no landmark id, a number from 0")
    return int(text)


def _score(path: StrPath, line: int, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise malformed(path, line, f"{text!r:.80} is no finite score")
    return score
