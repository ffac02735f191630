"""A dozen kinds of building, each different for every seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from delf_tf.synthetic import textures
from delf_tf.synthetic.builder import Builder
from delf_tf.synthetic.facades import draw_facade
from delf_tf.synthetic.textures import Texture, tinted
from delf_tf.synthetic.windows import WINDOWS


def _palace(make: Builder) -> tuple[float, float]:
    wide, tall = make.uniform(26, 44), make.uniform(11, 17)
    deep, half = make.uniform(12, 18), wide / 2
    middle = make.uniform(0.12, 0.2) * wide
    name = str(make.rng.choice(["clock", "shield", "wheel"]))
    make.box(
        (-middle, middle),
        (0, tall * 1.12),
        (-3, 1.6),
        make.front(tall * 1.12, 2 * middle, name),
        make.wall,
    )
    make.gable_roof((-middle, middle), (-6, 1.7), tall * 1.12, middle * 0.55, gable=make.trim)
    front = make.front(tall, wide)
    make.box((-half, half), (0, tall), (-deep, 0), front, make.side(tall), is_facade=True)
    make.hip_roof((-half, half), (-deep, 0), tall, make.uniform(3, 6))
    if make.rng.random() < 0.6:
        for side in (-1, 1):
            x = sorted((side * half, side * (half - wide * 0.15)))
            make.box((x[0], x[1]), (0, tall * 1.2), (-6, 1.2), make.side(tall * 1.2), make.wall)
            make.hip_roof((x[0], x[1]), (-6, 1.2), tall * 1.2, make.uniform(3, 7))
    return wide, tall * 1.3


def _church(make: Builder) -> tuple[float, float]:
    wide, tall = make.uniform(13, 19), make.uniform(14, 20)
    half, deep = wide / 2, make.uniform(22, 32)
    front = make.front(tall, wide, "wheel")
    make.box((-half, half), (0, tall), (-deep, 0), front, make.side(tall), is_facade=True)
    make.gable_roof((-half, half), (-deep, 0), tall, make.uniform(0.4, 0.7) * wide)
    layout = int(make.rng.integers(3))
    for side in ((-1, 1), (-1,), (1,))[layout]:
        girth, top = wide * make.uniform(0.28, 0.4), tall * make.uniform(1.35, 1.9)
        x = sorted((side * (half - girth * 0.2), side * (half + girth * 0.8)))
        shaft = make.front(top, girth, "clock" if make.rng.random() < 0.5 else None)
        make.box((x[0], x[1]), (0, top), (0.7 - girth, 0.7), shaft, make.side(top))
        spire = make.uniform(0.6, 2.4) * girth
        make.hip_roof((x[0], x[1]), (0.7 - girth, 0.7), top, spire)
    return wide * 1.4, tall * 1.8


def _temple(make: Builder) -> tuple[float, float]:
    wide, tall, deep = make.uniform(20, 34), make.uniform(9, 13), make.uniform(14, 24)
    half, num = wide / 2, int(make.rng.integers(4, 9))
    for step in range(4):
        grow = (4 - step) * 0.7
        make.box(
            (-half - grow, half + grow),
            (step * 0.45, step * 0.45 + 0.45),
            (-deep, 3 + grow),
            make.trim,
        )
    front = make.front(tall, wide)
    make.box((-half, half), (1.8, 1.8 + tall), (-deep, -1), front, make.side(tall), is_facade=True)
    girth = make.uniform(0.055, 0.085) * wide / num * 4
    for x in np.linspace(-half + girth, half - girth, num):
        make.prism(
            (x, 2), (girth, girth * 0.82), (1.8, 1.8 + tall * 0.9), 8, make.trim, repeat=(0.6, 2)
        )
        make.box(
            (x - girth * 1.3, x + girth * 1.3),
            (1.8 + tall * 0.9, 2.1 + tall * 0.9),
            (0.6, 3.4),
            make.trim,
        )
    base = 1.8 + tall * 0.92
    beam = make.front(2.4, wide)
    make.box((-half, half), (base, base + 2.4), (-deep, 3.3), beam, make.trim)
    make.gable_roof(
        (-half - 0.5, half + 0.5),
        (-deep, 3.4),
        base + 2.4,
        wide * make.uniform(0.12, 0.2),
        gable=make.front(4, wide, "shield"),
    )
    if make.rng.random() < 0.4:
        make.dome((0, -deep / 2), wide * 0.25, base + 3, wide * 0.24, texture=make.roof)
    return wide * 1.1, tall * 1.6


def _castle(make: Builder) -> tuple[float, float]:
    wide, tall, deep = make.uniform(22, 36), make.uniform(8, 13), make.uniform(12, 18)
    half = wide / 2
    front = make.front(tall, wide, "shield")
    make.box((-half, half), (0, tall), (-deep, 0), front, make.side(tall), is_facade=True)
    make.battlements((-half, half), tall, 0.0)
    for side in (-1, 1):
        radius, top = make.uniform(2.4, 4), tall * make.uniform(1.15, 1.7)
        centre = (side * half, make.uniform(-1, 0.5))
        make.prism(centre, (radius, radius), (0, top), 10, make.wall, repeat=(0.5, top / 7))
        if make.rng.random() < 0.65:
            make.prism(
                centre,
                (radius * 1.2, 0.0),
                (top, top + radius * make.uniform(1.5, 3)),
                10,
                make.roof,
            )
        else:
            make.prism(centre, (radius * 1.15, radius * 1.15), (top, top + 1.4), 10, make.trim)
    keep = make.uniform(0.25, 0.4) * wide
    x = make.uniform(-0.2, 0.2) * wide
    top = tall * make.uniform(1.4, 2.0)
    span = (x - keep / 2, x + keep / 2)
    make.box(span, (0, top), (-deep, -4), make.front(top, keep), make.side(top))
    make.battlements(span, top, -4.0)
    return wide * 1.2, tall * 1.8


def _basilica(make: Builder) -> tuple[float, float]:
    wide, tall, deep = make.uniform(22, 34), make.uniform(12, 17), make.uniform(20, 28)
    half = wide / 2
    front = make.front(tall, wide, "shield")
    make.box((-half, half), (0, tall), (-deep, 0), front, make.side(tall), is_facade=True)
    porch = wide * make.uniform(0.16, 0.26)
    for x in np.linspace(-porch, porch, 4):
        make.prism((x, 2), (0.7, 0.6), (0, tall * 0.6), 8, make.trim, repeat=(0.6, 2))
    make.box((-porch - 1, porch + 1), (tall * 0.6, tall * 0.72), (0, 3), make.trim)
    make.gable_roof((-porch - 1, porch + 1), (0, 3.1), tall * 0.72, porch * 0.5, gable=make.trim)
    radius, drum = wide * make.uniform(0.2, 0.3), tall + make.uniform(2, 6)
    make.prism((0, -deep / 2), (radius, radius), (tall, drum), 10, make.side(6))
    make.dome(
        (0, -deep / 2), radius * 1.06, drum, radius * make.uniform(0.9, 1.4), texture=make.roof
    )
    make.prism(
        (0, -deep / 2),
        (radius * 0.14, radius * 0.1),
        (drum + radius, drum + radius * 1.8),
        6,
        make.trim,
    )
    if make.rng.random() < 0.6:
        for side in (-1, 1):
            spot, top = (
                (side * half * make.uniform(0.85, 1.35), make.uniform(-6, -1)),
                tall * make.uniform(1.5, 2.3),
            )
            make.prism(spot, (1.7, 1.4), (0, top), 8, make.wall, repeat=(0.4, 5))
            make.prism(spot, (2.3, 2.3), (top * 0.72, top * 0.76), 8, make.trim)
            make.prism(spot, (1.7, 0.0), (top, top + 5), 8, make.roof)
    return wide * 1.2, tall * 2.0


def _tower_hall(make: Builder) -> tuple[float, float]:
    wide, tall, deep = make.uniform(22, 34), make.uniform(10, 14), make.uniform(11, 16)
    half, girth, top = wide / 2, make.uniform(5.5, 8.5), make.uniform(24, 36)
    front = make.front(tall, wide)
    make.box((-half, half), (0, tall), (-deep, 0), front, make.side(tall), is_facade=True)
    make.hip_roof((-half, half), (-deep, 0), tall, make.uniform(3, 7))
    x = make.uniform(-0.35, 0.35) * wide
    span = (x - girth / 2, x + girth / 2)
    make.box(span, (0, top), (1.0 - girth, 1.0), make.front(top, girth, "clock"), make.side(top))
    grown = (span[0] - 0.6, span[1] + 0.6)
    make.box(grown, (top, top + 1.2), (0.4 - girth, 1.6), make.trim)
    if make.rng.random() < 0.5:
        make.hip_roof(grown, (0.4 - girth, 1.6), top + 1.2, make.uniform(4, 13))
    else:
        make.dome((x, 1 - girth / 2), girth * 0.55, top + 1.2, girth * 0.7, texture=make.roof)
    return wide, top


def _modern(make: Builder) -> tuple[float, float]:
    wide = make.uniform(16, 30)
    x, y, tallest = -wide / 2, 0.0, 0.0
    for at in range(int(make.rng.integers(2, 5))):
        part, tall = wide * make.uniform(0.35, 1.0), make.uniform(8, 26)
        left = x + make.uniform(0, wide - part)
        z = 0.0 if at == 0 else make.uniform(-6, 3)
        front = make.front(tall, part)
        stacked = y if at and make.rng.random() < 0.45 else 0.0
        make.box(
            (left, left + part),
            (stacked, stacked + tall),
            (z - make.uniform(9, 15), z),
            front,
            make.side(tall),
            is_facade=at == 0,
        )
        y, tallest = stacked + tall if at == 0 else y, max(tallest, stacked + tall)
    slab = make.uniform(-0.4, 0.4) * wide
    make.box((slab - 3, slab + 3), (3.0, 3.6), (0, 4.5), make.trim)
    return wide, tallest


def _pagoda(make: Builder) -> tuple[float, float]:
    wide, y = make.uniform(13, 20), 0.0
    tiers = int(make.rng.integers(3, 7))
    for tier in range(tiers):
        half = wide / 2 * (1 - tier * 0.75 / tiers)
        tall = make.uniform(3.6, 5.2)
        front = make.front(tall, 2 * half)
        make.box(
            (-half, half),
            (y, y + tall),
            (-2 * half, 0),
            front,
            make.side(tall),
            is_facade=tier == 0,
        )
        eave = half * 1.3 + 0.6
        make.hip_roof((-eave, eave), (-half - eave, eave - half), y + tall, make.uniform(1.5, 3))
        y += tall + 1.2
    make.prism((0, -wide / 2 * 0.4), (0.35, 0.1), (y, y + 6), 6, make.trim)
    return wide * 1.4, y


def _arch(make: Builder) -> tuple[float, float]:
    wide, tall, deep = make.uniform(15, 24), make.uniform(13, 20), make.uniform(5, 9)
    half, gap = wide / 2, make.uniform(0.2, 0.32) * wide
    spring = tall * make.uniform(0.5, 0.62)
    pier = half - gap / 2
    make.box(
        (-half, -gap / 2), (0, spring), (-deep, 0), make.front(spring, pier), make.side(spring)
    )
    make.box(
        (gap / 2, half),
        (0, spring),
        (-deep, 0),
        make.front(spring, pier, "shield"),
        make.side(spring),
    )
    attic = make.front(tall - spring, wide, "wheel")
    make.box((-half, half), (spring, tall), (-deep, 0), attic, make.wall, is_facade=True)
    make.box((-half - 0.8, half + 0.8), (tall, tall + 0.9), (-deep - 0.8, 0.8), make.trim)
    make.quad((-gap / 2, spring, 0), (0, 0, -deep), (0, -spring, 0), make.wall)
    for x in (-half * 0.95, -gap / 2 - 0.8, gap / 2 + 0.8, half * 0.95):
        make.prism((x, 0.9), (0.65, 0.55), (0, spring), 8, make.trim, repeat=(0.5, 2))
    figure = tall + 0.9
    for x in make.rng.uniform(-half * 0.7, half * 0.7, int(make.rng.integers(1, 4))):
        make.box((x - 1, x + 1), (figure, figure + 1.5), (-deep / 2 - 1, -deep / 2 + 1), make.trim)
        make.prism(
            (x, -deep / 2), (0.8, 0.3), (figure + 1.5, figure + make.uniform(3.5, 6)), 6, make.roof
        )
    return wide * 1.1, tall * 1.25


def _row_houses(make: Builder) -> tuple[float, float]:
    count = int(make.rng.integers(3, 6))
    widths = make.rng.uniform(6, 10, count)
    x, total, tallest = -widths.sum() / 2, float(widths.sum()), 0.0
    for at, wide in enumerate(widths.tolist()):
        tall = make.uniform(9, 16)
        colour = tinted(
            textures.WALL_COLOURS[make.rng.integers(len(textures.WALL_COLOURS))], make.rng
        )
        window = str(make.rng.choice(list(WINDOWS)))
        style = dataclasses.replace(
            make.style, wall=colour, window=window, bay_m=wide / make.rng.integers(2, 4)
        )
        front = Texture.of(draw_facade(make.rng, style, (tall, wide)))
        z = make.uniform(-0.8, 0.4)
        make.box((x, x + wide), (0, tall), (-11, z), front, make.wall, is_facade=at == count // 2)
        if make.rng.random() < 0.6:
            make.gable_roof((x, x + wide), (-11, z), tall, make.uniform(2.5, 5))
        else:
            make.hip_roof((x, x + wide), (-11, z), tall, make.uniform(1, 4))
        x, tallest = x + wide, max(tallest, tall)
    return total, tallest * 1.25


KINDS: dict[str, Callable[[Builder], tuple[float, float]]] = {
    "palace": _palace,
    "church": _church,
    "temple": _temple,
    "castle": _castle,
    "basilica": _basilica,
    "tower_hall": _tower_hall,
    "modern": _modern,
    "pagoda": _pagoda,
    "arch": _arch,
    "row_houses": _row_houses,
}
