"""Façades: floors and bays of windows, portals, mouldings, and ornament that only one place has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from delf_tf.synthetic.textures import Colour, shaded, surface, tinted, weathered

Bounds = tuple[float, float, float, float]

TEXELS_PER_M = 36
MAX_TEXELS = 1100


@dataclasses.dataclass(frozen=True)
class FacadeStyle:
    """What the façades of one building share.

    Attributes:
      wall, trim, frame, glass: colours.
      pattern: the wall's, a row of `textures.PATTERNS`.
      window: a row of `WINDOWS`.
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
      centrepiece: a row of `CENTREPIECES` for its upper middle, or None.

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
        _one_offs(pen, (height, width))
    if centrepiece is not None:
        _place_centrepiece(pen, (height, width), centrepiece)
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


def _glazing(pen, opening, columns=2, rows=3):
    """Panes, some reflecting, some with a curtain or blind, in their bars."""
    x0, y0, x1, y1 = opening
    pen.draw.rectangle(opening, shaded(pen.style.glass, pen.rng.uniform(0.6, 1.3)))
    if pen.rng.random() < 0.35:
        drop = y0 + (y1 - y0) * pen.rng.uniform(0.15, 0.7)
        pen.draw.rectangle((x0, y0, x1, drop), tinted((196, 190, 176), pen.rng))
    if pen.rng.random() < 0.3:
        shine = shaded(pen.style.glass, 2.1)
        pen.draw.polygon([(x0, y1), (x0 + (x1 - x0) * 0.6, y0), (x1, y0), (x0 + 2, y1)], shine)
    for at in range(1, columns):
        x = x0 + (x1 - x0) * at / columns
        pen.draw.line((x, y0, x, y1), pen.style.frame, 2)
    for at in range(1, rows):
        y = y0 + (y1 - y0) * at / rows
        pen.draw.line((x0, y, x1, y), pen.style.frame, 2)
    pen.draw.rectangle(opening, outline=pen.style.frame, width=2)


def _surround(pen, opening, edge):
    """A raised frame: lit above and left, in its own shadow inside and below."""
    x0, y0, x1, y1 = opening
    pen.draw.rectangle((x0 - edge, y0 - edge, x1 + edge, y1 + edge * 0.6), pen.style.trim)
    pen.draw.line((x0 - edge, y0 - edge, x1 + edge, y0 - edge), shaded(pen.style.trim, 1.2), 2)
    pen.draw.line((x1 + edge, y0 - edge, x1 + edge, y1), shaded(pen.style.trim, 0.7), 2)
    sill = (x0 - edge * 1.5, y1 + edge * 0.6, x1 + edge * 1.5, y1 + edge * 1.6)
    pen.draw.rectangle(sill, shaded(pen.style.trim, 1.08))
    pen.draw.line((sill[0], sill[3] + 1, sill[2], sill[3] + 1), shaded(pen.style.wall, 0.55), 3)


def _plain_window(pen, opening):
    _surround(pen, opening, (opening[2] - opening[0]) * 0.1 + 1)
    _glazing(pen, opening)
    pen.draw.line((opening[0], opening[1] + 1, opening[2], opening[1] + 1), (24, 22, 22), 3)


def _arched_window(pen, opening):
    x0, y0, x1, y1 = opening
    half, edge = (x1 - x0) / 2, (x1 - x0) * 0.12 + 1
    spring = min(y0 + half, y1 - 2)
    crown = (x0 - edge, y0 - edge, x1 + edge, 2 * spring - y0 + edge)
    _surround(pen, (x0, spring, x1, y1), edge)
    pen.draw.pieslice(crown, 180, 360, pen.style.trim, shaded(pen.style.trim, 0.75))
    pen.draw.pieslice((x0, y0, x1, 2 * spring - y0), 180, 360, shaded(pen.style.glass, 0.9))
    _glazing(pen, (x0, spring, x1, y1), 2, 2)
    for angle in (-0.5, 0.0, 0.5):
        tip = ((x0 + x1) / 2 + np.sin(angle) * half, spring - np.cos(angle) * (spring - y0))
        pen.draw.line(((x0 + x1) / 2, spring, *tip), pen.style.frame, 2)
    middle = (x0 + x1) / 2
    stone = (middle - edge * 0.8, y0 - edge * 1.5, middle + edge * 0.8, y0 + edge * 0.6)
    pen.draw.rectangle(stone, shaded(pen.style.trim, 1.12), shaded(pen.style.trim, 0.7))


def _pointed_window(pen, opening):
    x0, y0, x1, y1 = opening
    middle, edge, rise = (x0 + x1) / 2, (x1 - x0) * 0.12 + 1, (x1 - x0) * 0.9
    spring = min(y0 + rise, y1 - 2)
    for grow, fill in ((edge, pen.style.trim), (0, shaded(pen.style.glass, 0.85))):
        outline = [
            (x0 - grow, y1 + grow),
            (x0 - grow, spring),
            (x0 + (middle - x0) * 0.3, y0 + rise * 0.35 - grow),
        ]
        outline += [(middle, y0 - grow * 1.4), (x1 - (x1 - middle) * 0.3, y0 + rise * 0.35 - grow)]
        pen.draw.polygon([*outline, (x1 + grow, spring), (x1 + grow, y1 + grow)], fill)
    pen.draw.line((middle, y0 + rise * 0.5, middle, y1), pen.style.trim, 3)
    radius = (x1 - x0) * 0.17
    ring = (middle - radius, spring - radius, middle + radius, spring + radius)
    pen.draw.ellipse(ring, tinted((120, 90, 130), pen.rng, 40), pen.style.trim, 2)
    for y in np.linspace(spring + radius, y1, 5)[1:-1]:
        pen.draw.line((x0, y, x1, y), pen.style.frame, 1)


def _pedimented_window(pen, opening):
    x0, y0, x1, y1 = opening
    edge, rise = (x1 - x0) * 0.12 + 1, (x1 - x0) * 0.28
    y0 = y0 + rise
    _plain_window(pen, (x0, y0, x1, y1))
    left, right, base = x0 - edge * 2, x1 + edge * 2, y0 - edge
    pen.draw.polygon([(left, base), ((x0 + x1) / 2, base - rise), (right, base)], pen.style.trim)
    pen.draw.line((left, base, right, base), shaded(pen.style.trim, 0.62), 3)
    inner = [(left + rise, base - 4), ((x0 + x1) / 2, base - rise * 0.68), (right - rise, base - 4)]
    pen.draw.polygon(inner, shaded(pen.style.trim, 0.8))


def _paired_window(pen, opening):
    x0, y0, x1, y1 = opening
    gap = (x1 - x0) * 0.07
    middle = (x0 + x1) / 2
    for left, right in ((x0, middle - gap), (middle + gap, x1)):
        _arched_window(pen, (left, y0, right, y1))


def _shuttered_window(pen, opening):
    x0, y0, x1, y1 = opening
    wide = (x1 - x0) * 0.3
    _plain_window(pen, (x0 + wide, y0, x1 - wide, y1))
    shutter = tinted(pen.style.frame, pen.rng, 10)
    for left in (x0, x1 - wide):
        pen.draw.rectangle((left, y0, left + wide - 2, y1), shutter, shaded(shutter, 0.6), 2)
        for y in np.arange(y0 + 4, y1, 6):
            pen.draw.line((left + 3, y, left + wide - 5, y), shaded(shutter, 0.7), 1)


def _ribbon_window(pen, opening):
    x0, y0, x1, y1 = opening
    grow = (x1 - x0) * 0.36
    opening = (x0 - grow, y0, x1 + grow, y1)
    _glazing(pen, opening, int(pen.rng.integers(2, 5)), 2)
    pen.draw.line((opening[0], y1 + 2, opening[2], y1 + 2), shaded(pen.style.wall, 0.6), 3)


def _round_window(pen, opening):
    x0, y0, x1, y1 = opening
    radius = min(x1 - x0, y1 - y0) / 2
    _wheel(pen, ((x0 + x1) / 2, (y0 + y1) / 2), radius, 6)


WINDOWS: dict[str, Callable[..., None]] = {
    "plain": _plain_window,
    "arched": _arched_window,
    "pointed": _pointed_window,
    "pedimented": _pedimented_window,
    "paired": _paired_window,
    "shuttered": _shuttered_window,
    "ribbon": _ribbon_window,
    "round": _round_window,
}


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


def _one_offs(pen, size):
    """A few things at odd places that make this façade this façade."""
    height, width = size
    for _ in range(int(pen.rng.integers(2, 6))):
        x, y = pen.rng.uniform(0.05, 0.9) * width, pen.rng.uniform(0.08, 0.75) * height
        reach = pen.rng.uniform(0.035, 0.09) * max(height, width)
        kind = ONE_OFFS[int(pen.rng.integers(len(ONE_OFFS)))]
        kind(pen, (x, y, min(x + reach, width), y + reach))


def _sign(pen, box):
    x0, y0, x1, y1 = box
    board = tinted(
        pen.rng.choice([(30, 60, 120), (150, 30, 36), (30, 30, 34), (240, 236, 224)]), pen.rng
    )
    ink = (236, 226, 190) if sum(board) < 380 else (40, 36, 40)
    wide, tall = (x1 - x0) * 1.6, (y1 - y0) * 0.45
    pen.draw.rectangle((x0, y0, x0 + wide, y0 + tall), board, shaded(ink, 0.8), 2)
    for at in np.arange(x0 + 4, x0 + wide - tall * 0.5, tall * 0.5):
        points = pen.rng.uniform(0.2, 0.8, (4, 2)) * (tall * 0.45, tall) + (at, y0)
        pen.draw.line([tuple(point) for point in points.tolist()], ink, max(2, int(tall / 9)))


def _niche(pen, box):
    x0, y0, x1, y1 = box
    middle, half = (x0 + x1) / 2, (x1 - x0) / 4
    pen.draw.rounded_rectangle(
        (middle - half, y0, middle + half, y1), half, shaded(pen.style.wall, 0.4)
    )
    figure = shaded(pen.style.trim, 1.1)
    pen.draw.ellipse(
        (middle - half * 0.28, y0 + half * 0.6, middle + half * 0.28, y0 + half * 1.2), figure
    )
    lean = pen.rng.uniform(-0.4, 0.4) * half
    robe = [
        (middle, y0 + half),
        (middle + half * 0.6 + lean, y1 - 2),
        (middle - half * 0.6 + lean, y1 - 2),
    ]
    pen.draw.polygon(robe, figure, shaded(figure, 0.6))


def _medallion(pen, box):
    x0, y0, x1, y1 = box
    centre, radius = ((x0 + x1) / 2, (y0 + y1) / 2), (x1 - x0) / 2.6
    _wheel(pen, centre, radius, int(pen.rng.integers(3, 9)))


def _mosaic(pen, box):
    x0, y0, x1, y1 = box
    pen.draw.rectangle(box, shaded(pen.style.trim, 1.1))
    cells = pen.rng.integers(0, 4, (6, 6))
    colours = [tinted(pen.rng.integers(40, 220, 3), pen.rng) for _ in range(4)]
    for (row, column), kind in np.ndenumerate(cells):
        x, y = x0 + (x1 - x0) * column / 6, y0 + (y1 - y0) * row / 6
        pen.draw.rectangle((x, y, x + (x1 - x0) / 6 - 1, y + (y1 - y0) / 6 - 1), colours[kind])


def _banner(pen, box):
    x0, y0, x1, y1 = box
    wide = (x1 - x0) * 0.45
    colours = [tinted(pen.rng.integers(30, 230, 3), pen.rng) for _ in range(3)]
    for at, colour in enumerate(colours):
        top = y0 + (y1 - y0) * 1.6 * at / 3
        pen.draw.rectangle((x0, top, x0 + wide, top + (y1 - y0) * 1.6 / 3), colour)


def _ivy(pen, box):
    x0, y0, x1, y1 = box
    points = pen.rng.normal(0.5, 0.3, (90, 2)) * (x1 - x0, (y1 - y0) * 2) + (x0, y0)
    for x, y in points.tolist():
        leaf = tinted((62, 92, 44), pen.rng, 18)
        pen.draw.ellipse((x - 5, y - 4, x + 5, y + 4), leaf)


ONE_OFFS = (_sign, _niche, _medallion, _mosaic, _banner, _ivy, _niche, _medallion)


def _place_centrepiece(pen, size, name):
    height, width = size
    radius = min(height * 0.16, width * 0.2)
    CENTREPIECES[name](pen, (width / 2, height * pen.rng.uniform(0.24, 0.4)), radius)


def _wheel(pen, centre, radius, num_spokes=None):
    """A rose window or medallion: rings, spokes, petals."""
    x, y = centre
    num_spokes = num_spokes or int(pen.rng.integers(6, 17))
    glass = tinted((70, 60, 110), pen.rng, 30)
    for share, fill in ((1.15, pen.style.trim), (1.0, shaded(glass, 0.7)), (0.36, glass)):
        reach = radius * share
        pen.draw.ellipse(
            (x - reach, y - reach, x + reach, y + reach), fill, shaded(pen.style.trim, 0.6), 2
        )
    petal = tinted(pen.rng.integers(60, 200, 3), pen.rng)
    for angle in np.arange(num_spokes) * (2 * np.pi / num_spokes):
        dx, dy = float(np.cos(angle)), float(np.sin(angle))
        pen.draw.line(
            (x + dx * radius * 0.3, y + dy * radius * 0.3, x + dx * radius, y + dy * radius),
            pen.style.trim,
            3,
        )
        px, py, reach = x + dx * radius * 0.72, y + dy * radius * 0.72, radius * 1.6 / num_spokes
        pen.draw.ellipse((px - reach, py - reach, px + reach, py + reach), petal, pen.style.trim, 2)


def _clock(pen, centre, radius):
    x, y = centre
    face = tinted(((236, 230, 210), (34, 44, 80), (40, 40, 44))[int(pen.rng.integers(3))], pen.rng)
    ink = (30, 26, 24) if sum(face) > 380 else (226, 196, 110)
    pen.draw.ellipse(
        (x - radius * 1.15, y - radius * 1.15, x + radius * 1.15, y + radius * 1.15), pen.style.trim
    )
    pen.draw.ellipse((x - radius, y - radius, x + radius, y + radius), face, ink, 3)
    for hour in range(12):
        dx, dy = float(np.cos(hour * np.pi / 6)), float(np.sin(hour * np.pi / 6))
        pen.draw.line(
            (
                x + dx * radius * 0.78,
                y + dy * radius * 0.78,
                x + dx * radius * 0.93,
                y + dy * radius * 0.93,
            ),
            ink,
            4,
        )
    for angle, reach in ((pen.rng.uniform(0, 6.28), 0.5), (pen.rng.uniform(0, 6.28), 0.75)):
        pen.draw.line(
            (x, y, x + np.cos(angle) * radius * reach, y + np.sin(angle) * radius * reach), ink, 4
        )


def _shield(pen, centre, radius):
    x, y = centre
    outline = [(-1, -1), (1, -1), (1, 0.2), (0, 1.2), (-1, 0.2)]
    pen.draw.polygon(
        [(x + a * radius * 1.1, y + b * radius * 1.1) for a, b in outline], pen.style.trim
    )
    quarters = [tinted(pen.rng.integers(30, 230, 3), pen.rng) for _ in range(2)]
    pen.draw.polygon(
        [(x + a * radius * 0.9, y + b * radius * 0.9) for a, b in outline], quarters[0]
    )
    pen.draw.rectangle((x - radius * 0.9, y - radius * 0.9, x, y), quarters[1])
    pen.draw.rectangle((x, y, x + radius * 0.86, y + radius * 0.2), quarters[1])
    _mosaic(pen, (x - radius * 0.3, y - radius * 0.3, x + radius * 0.3, y + radius * 0.3))


CENTREPIECES: dict[str, Callable[..., None]] = {"wheel": _wheel, "clock": _clock, "shield": _shield}
