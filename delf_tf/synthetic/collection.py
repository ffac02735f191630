"""Folders of generated photographs with labels."""

from __future__ import annotations

import concurrent.futures
import csv
import functools
import io
import json
import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from delf_tf.artifacts import StrPath, write_bytes, write_json, write_text
from delf_tf.checks import InputError, invalid, require
from delf_tf.progress import track
from delf_tf.synthetic.views import render_landscape, render_view

# Raised whenever the same seeds would give other images.
GENERATOR_VERSION = 1
_SEEDS_APART = 1_000_000
_SHAPES = ((1.0, 0.75), (0.75, 1.0), (1.0, 2 / 3), (1.0, 1.0))


def write_collection(
    output_dir: StrPath,
    *,
    num_landmarks: int,
    views_per_landmark: int,
    first_view: int = 0,
    num_distractors: int = 0,
    seed: int = 0,
    image_side: int = 640,
    num_workers: int = 1,
) -> Path:
    """Writes JPEG photographs of generated landmarks, and their labels.

    `images/landmark_LLLL_VV.jpg` are the views; `images/distractor_DDDDD.jpg` are near-duplicates
    in style of the landmarks, other buildings, and landscapes in turn. Files appear whole or not at
    all: a killed run resumes, and processes may write the same collection at once.

    Args:
      output_dir: made if missing; it may hold the same collection, finished or not.
      num_landmarks: how many places.
      views_per_landmark: images of each.
      first_view: number of the first of them; another collection of the same `seed` and other
        numbers shows the same landmarks as never seen before.
      num_distractors: images of none of them.
      seed: another seed is another collection, with no landmark in common.
      image_side: larger side of the images in pixels.
      num_workers: processes that render.

    Returns:
      The path of labels.csv, columns image (the path below images/) and place (empty for
      distractors). It is written last.

    Raises:
      InputError: a number out of range, or the folder holds another collection.
    """
    limits = {
        "num_landmarks": (num_landmarks, 0, _SEEDS_APART // 4),
        "views_per_landmark": (views_per_landmark, 1, _SEEDS_APART),
        "first_view": (first_view, 0, _SEEDS_APART),
        "num_distractors": (num_distractors, 0, _SEEDS_APART // 4),
        "seed": (seed, 0, 1 << 32),
        "image_side": (image_side, 32, 4096),
        "num_workers": (num_workers, 1, 1024),
    }
    for name, (value, low, high) in limits.items():
        require(low <= value <= high, f"{name} must be {low} to {high}.", **{name: value})
    require(num_landmarks + num_distractors > 0, "A collection must have images.")
    folder = Path(output_dir)
    recipe = {name: limits[name][0] for name in list(limits)[:-1]}
    _claim(folder, {"generator_version": GENERATOR_VERSION, **recipe})
    # A task is a whole landmark, whose textures are made once, or one distractor.
    tasks = [*range(num_landmarks), *(-1 - at for at in range(num_distractors))]
    write = functools.partial(_write_task, folder / "images", recipe)
    for _ in track(_run(write, tasks, num_workers), len(tasks), "scenes", "generating"):
        pass
    return _write_labels(folder, recipe)


def _claim(folder: Path, recipe: dict[str, int]) -> None:
    """Records what the folder is to hold; refuses one that holds something else."""
    path = folder / "collection.json"
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as fault:
            raise InputError(f"A collection's record must be readable: {path}. {fault}") from None
        if found != recipe:
            raise invalid(
                "A folder must hold one collection of generated images.",
                hint="Choose another folder, or remove this one.",
                output_dir=folder,
                found=found,
                wanted=recipe,
            )
        return
    write_json(path, recipe)


def _run(write: Callable[[int], None], tasks: list[int], num_workers: int) -> Iterable[None]:
    if num_workers == 1:
        yield from map(write, tasks)
        return
    # Fresh processes: a fork of one that runs TensorFlow's threads can hang.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        yield from pool.map(write, tasks, chunksize=4)


def _write_task(images_dir: Path, recipe: dict[str, int], task: int) -> None:
    """Writes landmark `task`, or distractor -1 - `task` if that is negative."""
    base, image_side = recipe["seed"] * _SEEDS_APART, recipe["image_side"]
    if task >= 0:
        for view in _views(recipe):
            path = images_dir / _view_name(task, view)
            if not path.exists():
                shape = _shape(image_side, base + task, view)
                _write_jpeg(path, render_view(base + task, view, shape))
        return
    number = -1 - task
    path = images_dir / _distractor_name(number)
    if not path.exists():
        other = base + _SEEDS_APART // 2 + number
        shape = _shape(image_side, other, 0)
        if number % 3 == 2:
            _write_jpeg(path, render_landscape(other, shape))
        else:
            models = recipe["num_landmarks"] if number % 3 == 0 else 0
            near = base + number // 3 % models if models else None
            _write_jpeg(path, render_view(other, 0, shape, style_seed=near))


def _shape(image_side: int, seed: int, view: int) -> tuple[int, int]:
    """Returns (height, width): mostly 4:3, some upright, wide or square."""
    rng = np.random.default_rng([15, seed, view])
    wide, tall = _SHAPES[int(rng.choice(len(_SHAPES), p=[0.55, 0.2, 0.15, 0.1]))]
    return max(16, round(image_side * tall)), max(16, round(image_side * wide))


def _write_jpeg(path: Path, pixels: np.ndarray) -> None:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    write_bytes(path, file.getvalue())


def _view_name(landmark: int, view: int) -> str:
    return f"landmark_{landmark:04d}_{view:02d}.jpg"


def _distractor_name(number: int) -> str:
    return f"distractor_{number:05d}.jpg"


def _views(recipe: dict[str, int]) -> range:
    first = recipe["first_view"]
    return range(first, first + recipe["views_per_landmark"])


def _write_labels(folder: Path, recipe: dict[str, int]) -> Path:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "place"])
    writer.writerows(
        [_view_name(landmark, view), f"landmark_{landmark:04d}"]
        for landmark in range(recipe["num_landmarks"])
        for view in _views(recipe)
    )
    writer.writerows([_distractor_name(one), ""] for one in range(recipe["num_distractors"]))
    return write_text(folder / "labels.csv", text.getvalue())
