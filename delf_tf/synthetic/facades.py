"""Façades: floors and bays of windows, mouldings and portals; see also `windows` and `ornament`."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from delf_tf.synthetic.ornament import place_centrepiece, place_one_offs
from delf_tf.synthetic.textures import Colour, shaded, surface, tinted, weathered
from delf_tf.synthetic.windows import WINDOWS

TEXELS_PER_M = 36
MAX_TEXELS = 1100


@dataclasses.dataclass(frozen=True)
class FacadeStyle:
    """What the façades of one building share.

    Attributes:
      wall, trim, frame, glass: colours.
      pattern: the wall's, a row of `textures.PATTERNS`.
      window: a row of `windows.WINDOWS`.
      bay_m, floor_m: width of a bay and height of a floor in metres.
      has_pilasters, has_quoins, has_strings, has_frieze: mouldings.
      motif: bool [7, 7], the ornament of the frieze, of one building only.
    """

    wall: Colour
    trim: Colour
    frame: Colour
    glass: Colour
    pattern: str
    window: str
    bay_m: float
    floor_m: float
    has_pilasters: bool
    has_quoins: bool
    has_strings: bool
    has_frieze: bool
    motif: np.ndarray


class Pen(NamedTuple):
    """What every drawing function needs."""

    rng: np.random.Generator
    draw: ImageDraw.ImageDraw
    style: FacadeStyle


def draw_facade(
    rng: np.random.Generator,
    style: FacadeStyle,
    size_m: tuple[float, float],
    *,
    is_main: bool = True,
    centrepiece: str | None = None,
) -> Image.Image:
    """Draws a façade.

    Args:
      rng: decides what is irregular about it.
      style: of its building.
      size_m: (height, width) in metres.
      is_main: whether it has a portal, signs, statues and the like.
      centrepiece: a row of `ornament.CENTREPIECES` for its upper middle, or None.

    Returns:
      An RGB image of at most `MAX_TEXELS` a side.
    """
    scale = min(TEXELS_PER_M, MAX_TEXELS / max(size_m))
    height, width = (max(24, round(side * scale)) for side in size_m)
    image = surface(rng, style.pattern, style.wall, (height, width))
    num_floors = max(1, round(size_m[0] / style.floor_m))
    num_bays = max(1, round(size_m[1] / style.bay_m))
    num_bays += 1 - num_bays % 2 if is_main and num_bays > 2 else 0
    pen = Pen(rng, ImageDraw.Draw(image), style)
    _mouldings(pen, (height, width), num_floors, num_bays)
    _windows(pen, (height, width), num_floors, num_bays)
    if is_main:
        _portal(pen, (height, width), num_floors)
        place_one_offs(pen, (height, width))
    if centrepiece is not None:
        place_centrepiece(pen, (height, width), centrepiece)
    return weathered(rng, image, 0.7)


def _windows(pen, size, num_floors, num_bays):
    height, width = size
    floor, bay = height / num_floors, width / num_bays
    share = pen.rng.uniform(0.4, 0.62), pen.rng.uniform(0.5, 0.72)
    kinds = [pen.style.window] * num_floors
    if num_floors > 2:
        kinds[int(pen.rng.integers(num_floors))] = str(pen.rng.choice(list(WINDOWS)))
    blind = pen.rng.random((num_floors, (num_bays + 1) // 2)) < 0.06
    for row in range(num_floors):
        for column in range(num_bays):
            if blind[row, min(column, num_bays - 1 - column)]:
                continue
            middle, top = (column + 0.5) * bay, row * floor + (1 - share[1]) * floor * 0.55
            half = bay * share[0] / 2
            opening = (middle - half, top, middle + half, top + floor * share[1])
            WINDOWS[kinds[row]](pen, opening)


def _mouldings(pen, size, num_floors, num_bays):
    height, width = size
    floor, bay = height / num_floors, width / num_bays
    thick = max(4, floor * 0.06)
    if pen.style.has_pilasters:
        for column in range(num_bays + 1):
            x = min(max(column * bay, thick), width - thick)
            pen.draw.rectangle((x - thick, 0, x + thick, height), shaded(pen.style.trim, 0.97))
            pen.draw.line((x + thick, 0, x + thick, height), shaded(pen.style.wall, 0.6), 3)
            pen.draw.rectangle(
                (x - thick * 1.6, thick * 1.4, x + thick * 1.6, thick * 3), pen.style.trim
            )
    if pen.style.has_quoins:
        for row, y in enumerate(np.arange(0, height, thick * 3)):
            long = thick * (4 if row % 2 else 2.6)
            for left in (0, width - long):
                box = (left, y, left + long, y + thick * 2.8)
                pen.draw.rectangle(
                    box, tinted(pen.style.trim, pen.rng, 6), shaded(pen.style.trim, 0.7)
                )
    if pen.style.has_strings:
        for row in range(1, num_floors):
            _string_course(pen, row * floor - thick, width, thick)
    if pen.style.has_frieze:
        _frieze(pen, int(floor * pen.rng.uniform(0.02, 0.1)), width, max(8, int(floor * 0.2)))
    _string_course(pen, 0, width, thick)


def _string_course(pen, y, width, thick):
    pen.draw.rectangle((0, y, width, y + thick), pen.style.trim)
    pen.draw.line((0, y, width, y), shaded(pen.style.trim, 1.15), 2)
    pen.draw.line((0, y + thick + 1, width, y + thick + 1), shaded(pen.style.wall, 0.5), 3)
    step = thick * 1.6
    for x in np.arange(0, width, step * 2):
        pen.draw.rectangle((x, y + thick, x + step, y + thick * 1.5), shaded(pen.style.trim, 0.85))


def _frieze(pen, top, width, tall):
    pen.draw.rectangle((0, top, width, top + tall), shaded(pen.style.trim, 0.8))
    cell = tall / 8
    rows, columns = np.nonzero(pen.style.motif)
    for left in np.arange(cell, width - tall, tall * 1.15):
        for row, column in zip(rows.tolist(), columns.tolist()):
            x, y = left + column * cell, top + (row + 0.5) * cell
            pen.draw.rectangle((x, y, x + cell, y + cell), shaded(pen.style.trim, 1.15))


def _portal(pen, size, num_floors):
    height, width = size
    floor = height / num_floors
    tall = floor * pen.rng.uniform(0.8, 1.25 if num_floors > 1 else 0.85)
    half = min(tall * pen.rng.uniform(0.3, 0.48), width * 0.3)
    middle = width / 2
    for ring in range(3):
        grow = (3 - ring) * half * 0.13
        fill = shaded(pen.style.trim, 1.05 - 0.14 * ring)
        box = (middle - half - grow, height - tall - grow, middle + half + grow, height + 2 * half)
        pen.draw.rounded_rectangle(
            box, half * pen.rng.choice((0.05, 0.95)), fill, shaded(fill, 0.6)
        )
    door = tinted(((92, 58, 36), (40, 62, 52), (70, 30, 30))[int(pen.rng.integers(3))], pen.rng)
    pen.draw.rounded_rectangle(
        (middle - half, height - tall, middle + half, height + half), half * 0.9, shaded(door, 0.6)
    )
    pen.draw.rectangle(
        (middle - half * 0.9, height - tall * 0.6, middle + half * 0.9, height), door
    )
    for x in np.linspace(middle - half * 0.8, middle + half * 0.8, 5):
        pen.draw.line((x, height - tall * 0.58, x, height), shaded(door, 0.6), 2)
