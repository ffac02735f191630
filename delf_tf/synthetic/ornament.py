"""Ornament that only one place has: signs, statues, mosaics, clocks, rose windows.

`pen` is a facades.Pen: the random generator, the picture, and the building's style.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from delf_tf.synthetic.textures import shaded, tinted


def place_one_offs(pen, size):
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
    wheel(pen, centre, radius, int(pen.rng.integers(3, 9)))


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


def place_centrepiece(pen, size, name):
    """Draws a row of `CENTREPIECES` in the upper middle of a façade."""
    height, width = size
    radius = min(height * 0.16, width * 0.2)
    CENTREPIECES[name](pen, (width / 2, height * pen.rng.uniform(0.24, 0.4)), radius)


def wheel(pen, centre, radius, num_spokes=None):
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


CENTREPIECES: dict[str, Callable[..., None]] = {"wheel": wheel, "clock": _clock, "shield": _shield}
