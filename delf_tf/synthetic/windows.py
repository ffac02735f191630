"""The kinds of windows of a façade.

`pen` is a facades.Pen: the random generator, the picture, and the building's style.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from delf_tf.synthetic.ornament import wheel
from delf_tf.synthetic.textures import shaded, tinted


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
    wheel(pen, ((x0 + x1) / 2, (y0 + y1) / 2), radius, 6)


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
