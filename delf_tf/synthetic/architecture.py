"""Landmarks: a building of some kind, the ground and the neighbours around it."""

from __future__ import annotations

import dataclasses

import numpy as np

from delf_tf.synthetic import textures
from delf_tf.synthetic.builder import Builder
from delf_tf.synthetic.facades import FacadeStyle, draw_facade
from delf_tf.synthetic.geometry import Face
from delf_tf.synthetic.kinds import KINDS
from delf_tf.synthetic.textures import Texture, shaded, surface, tinted, weathered
from delf_tf.synthetic.windows import WINDOWS


@dataclasses.dataclass(frozen=True, eq=False)
class Landmark:
    """A place: its building with the ground and the neighbours around it.

    Attributes:
      kind: a row of `KINDS`.
      faces: all of it; one has `is_facade`.
      width, height: of the building in metres.
      trees: float64 [T, 4], rows (x, z, height, hue) of trees that stand there for good.
    """

    kind: str
    faces: tuple[Face, ...]
    width: float
    height: float
    trees: np.ndarray

    @property
    def facade(self) -> Face:
        """The dominant façade."""
        return next(face for face in self.faces if face.is_facade)


def random_style(rng: np.random.Generator) -> FacadeStyle:
    """Returns what the façades of one building share."""
    wall = tinted(textures.WALL_COLOURS[rng.integers(len(textures.WALL_COLOURS))], rng)
    trim = (
        shaded(wall, rng.uniform(0.75, 1.3)) if rng.random() < 0.5 else tinted((222, 214, 198), rng)
    )
    half = rng.random((7, 4)) < 0.45
    return FacadeStyle(
        wall=wall,
        trim=trim,
        frame=tinted(
            ((238, 234, 226), (70, 48, 34), (44, 62, 56), (60, 60, 66))[rng.integers(4)], rng
        ),
        glass=tinted(
            ((58, 68, 82), (40, 44, 50), (84, 104, 122), (60, 56, 48))[rng.integers(4)], rng, 8
        ),
        pattern=textures.WALL_PATTERNS[rng.integers(len(textures.WALL_PATTERNS))],
        window=str(rng.choice(list(WINDOWS))),
        bay_m=float(rng.uniform(2.4, 4.4)),
        floor_m=float(rng.uniform(3.2, 5.0)),
        has_pilasters=bool(rng.random() < 0.4),
        has_quoins=bool(rng.random() < 0.4),
        has_strings=bool(rng.random() < 0.6),
        has_frieze=bool(rng.random() < 0.6),
        motif=np.concatenate([half, half[:, -2::-1]], axis=1),
    )


def build_landmark(seed: int, style_seed: int | None = None) -> Landmark:
    """Builds a landmark.

    Args:
      seed: any integer from 0; another seed is another landmark.
      style_seed: None, or the seed of a landmark whose kind of building, materials and colours
        this one borrows: a near-duplicate that is another place.
    """
    manner = np.random.default_rng([11, seed if style_seed is None else style_seed])
    kind = list(KINDS)[int(manner.integers(len(KINDS)))]
    style = random_style(manner)
    rng = np.random.default_rng([12, seed])
    make = Builder(rng, style)
    width, height = KINDS[kind](make)
    _surroundings(make, width)
    num_trees = int(rng.integers(0, 4))
    spots = rng.uniform((-0.9, 2, 5, 0), (0.9, 12, 10, 1), (num_trees, 4)) * (width, 1, 1, 1)
    return Landmark(kind, tuple(make.faces), width, height, spots)


def _surroundings(make: Builder, width: float) -> None:
    """Adds the ground and plain neighbours to both sides and behind."""
    rng = make.rng
    colour = tinted(textures.GROUND_COLOURS[rng.integers(len(textures.GROUND_COLOURS))], rng)
    kind = str(rng.choice(["paving", "ashlar", "plaster", "brick"]))
    ground = Texture.of(weathered(rng, surface(rng, kind, colour, (384, 384)), 0.5))
    make.quad((-400, 0, -400), (800, 0, 0), (0, 0, 800), ground, repeat=(80, 80))
    for side in (-1, 1):
        for row in range(int(rng.integers(1, 3))):
            wide, tall, deep = rng.uniform(8, 16), rng.uniform(6, 18), rng.uniform(8, 14)
            near = side * (width / 2 + rng.uniform(3, 9) + row * 18)
            x = sorted((near, near + side * wide))
            z = float(rng.uniform(-14, 3))
            style = random_style(rng)
            size = tall, wide
            front = Texture.of(
                draw_facade(rng, style, size, is_main=bool(rng.random() < 0.3)).reduce(2)
            )
            make.box((x[0], x[1]), (0, tall), (z - deep, z), front, front, top=make.roof)
            if rng.random() < 0.6:
                make.hip_roof((x[0], x[1]), (z - deep, z), tall, float(rng.uniform(2, 5)))
