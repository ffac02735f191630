"""Surfaces of generated buildings: masonry, roofs, ground, and façades with their ornament."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]

WALL_COLOURS: tuple[Colour, ...] = (
    *((214, 196, 160), (196, 178, 150), (172, 96, 74), (138, 78, 62), (150, 148, 146)),
    *((226, 222, 212), (222, 184, 112), (214, 158, 148), (176, 190, 204), (178, 192, 160)),
    *((120, 112, 104), (236, 214, 190), (198, 120, 70), (104, 84, 74), (190, 170, 176)),
)
ROOF_COLOURS: tuple[Colour, ...] = (
    *((84, 86, 94), (168, 84, 58), (110, 160, 142), (120, 108, 98), (70, 60, 58), (148, 60, 48)),
)
GROUND_COLOURS: tuple[Colour, ...] = (
    *((150, 146, 138), (120, 118, 116), (168, 152, 126), (96, 112, 70), (134, 120, 108)),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Texture:
    """Pixels of a surface and their halvings.

    Attributes:
      levels: uint8 [h, w, 3] arrays; each is half as large as the one before.
    """

    levels: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, image: Image.Image) -> Texture:
        """Returns the texture of an RGB image of any size."""
        levels = [np.asarray(image)]
        while min(image.size) >= 8:
            image = image.reduce(2)
            levels.append(np.asarray(image))
        return cls(tuple(levels))


def tinted(colour: Sequence[float], rng: np.random.Generator, spread: float = 14) -> Colour:
    """Returns a colour near `colour`."""
    shift = rng.normal(0, spread * 0.6) + rng.normal(0, spread * 0.5, 3)
    red, green, blue = np.clip(np.asarray(colour) + shift, 8, 247).astype(int).tolist()
    return red, green, blue


def shaded(colour: Sequence[float], factor: float) -> Colour:
    """Returns `colour` times `factor`, within 0..255."""
    red, green, blue = colour
    return (
        int(min(255, max(0, red * factor))),
        int(min(255, max(0, green * factor))),
        int(min(255, max(0, blue * factor))),
    )


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Returns float32 [height, width] in about -1..1; 1/cells of a side is one swing."""
    rows = max(2, round(cells * height / max(height, width)))
    columns = max(2, round(cells * width / max(height, width)))
    grid = rng.uniform(-1, 1, (rows + 1, columns + 1)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def fractal_noise(
    rng: np.random.Generator, height: int, width: int, cells: int = 3, octaves: int = 4
) -> np.ndarray:
    """Returns a sum of `smooth_noise`, each octave twice as fine and half as strong."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        total += smooth_noise(rng, height, width, cells << octave) * 0.55**octave
    return total


def surface(
    rng: np.random.Generator, kind: str, colour: Colour, size: tuple[int, int]
) -> Image.Image:
    """Draws a bare, clean surface.

    Args:
      rng: decides the details.
      kind: a row of `PATTERNS`.
      colour: the dominant colour.
      size: (height, width) in texels.

    Returns:
      An RGB image.
    """
    image = Image.new("RGB", (size[1], size[0]), colour)
    PATTERNS[kind](rng, ImageDraw.Draw(image), colour, size)
    return image


def weathered(rng: np.random.Generator, image: Image.Image, strength: float = 1.0) -> Image.Image:
    """Returns the image with stains, streaks from rain and grain, and a little darker."""
    height, width = image.height, image.width
    small = max(8, height // 4), max(8, width // 4)
    stain = fractal_noise(rng, *small, cells=4, octaves=3) * rng.uniform(0.03, 0.11)
    streak = smooth_noise(rng, 2, small[1], max(8, small[1] // 3))[:1]
    down = np.linspace(0, 1, small[0], dtype=np.float32)[:, None]
    stain += streak * (1 - 0.8 * down) * 0.06 - down**6 * 0.14
    tone = np.clip(225 + 255 * strength * stain, 0, 255).astype(np.uint8)
    full = Image.fromarray(tone).resize((width, height), Image.Resampling.BILINEAR)
    tile = rng.integers(0, 22, (128, 128), np.uint8)
    grain = np.tile(tile, (-(-height // 128), -(-width // 128)))
    full = ImageChops.add(full, Image.fromarray(grain[:height, :width]), 1, -4)
    return ImageChops.multiply(image, Image.merge("RGB", (full, full, full)))


def _courses(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    colour: Colour,
    size: tuple[int, int],
    *,
    block: tuple[int, int],
    spread: float,
) -> None:
    """Rows of blocks, every second row shifted by half a block."""
    height, width = size
    rows, columns = -(-height // block[0]), -(-width // block[1]) + 1
    tones = rng.normal(1, spread, (rows, columns)).tolist()
    joint = shaded(colour, rng.uniform(0.7, 1.12))
    draw.rectangle((0, 0, width, height), joint)
    for row in range(rows):
        left = -(block[1] // 2) * (row % 2)
        for column in range(columns):
            x, y = left + column * block[1], row * block[0]
            tone = shaded(colour, tones[row][column])
            draw.rectangle((x, y, x + block[1] - 2, y + block[0] - 2), tone)


def _brick(rng, draw, colour, size):
    _courses(rng, draw, colour, size, block=(9, int(rng.integers(20, 28))), spread=0.09)


def _ashlar(rng, draw, colour, size):
    block = int(rng.integers(22, 40)), int(rng.integers(44, 90))
    _courses(rng, draw, colour, size, block=block, spread=0.05)


def _rubble(rng, draw, colour, size):
    draw.rectangle((0, 0, size[1], size[0]), shaded(colour, 0.75))
    num = size[0] * size[1] // 500
    xs, ys = rng.uniform(0, size[1], num), rng.uniform(0, size[0], num)
    radii, tones = rng.uniform(8, 21, num), rng.normal(1, 0.13, num)
    for x, y, radius, tone in zip(xs.tolist(), ys.tolist(), radii.tolist(), tones.tolist()):
        box = (x - radius, y - radius * 0.62, x + radius, y + radius * 0.62)
        draw.ellipse(box, shaded(colour, tone), shaded(colour, 0.66))


def _plaster(rng, draw, colour, size):
    for _ in range(6):
        x, y = rng.uniform(0, size[1]), rng.uniform(0, size[0])
        radius = rng.uniform(10, 60)
        box = (x - radius, y - radius / 2, x + radius, y + radius / 2)
        draw.ellipse(box, shaded(colour, rng.uniform(0.9, 1.06)))


def _planks(rng, draw, colour, size):
    step = int(rng.integers(14, 30))
    for y in range(0, size[0], step):
        draw.rectangle((0, y, size[1], y + step - 3), shaded(colour, rng.normal(1, 0.07)))
        draw.line((0, y + step - 2, size[1], y + step - 2), shaded(colour, 0.6), 2)


def _panels(rng, draw, colour, size):
    step = int(rng.integers(60, 130))
    for x in range(0, size[1], step):
        for y in range(0, size[0], step):
            tone = shaded(colour, rng.normal(1, 0.04))
            draw.rectangle((x, y, x + step - 3, y + step - 3), tone)


def _tiles(rng, draw, colour, size):
    step = int(rng.integers(12, 20))
    draw.rectangle((0, 0, size[1], size[0]), shaded(colour, 0.6))
    for row, y in enumerate(range(0, size[0], step)):
        for x in range(-(row % 2) * step // 2, size[1], step):
            tone = shaded(colour, rng.normal(1, 0.11))
            draw.ellipse((x, y - step // 2, x + step - 2, y + step - 2), tone)


def _seams(rng, draw, colour, size):
    for x in range(0, size[1], int(rng.integers(24, 44))):
        draw.line((x, 0, x, size[0]), shaded(colour, 0.7), 2)
        draw.line((x + 2, 0, x + 2, size[0]), shaded(colour, 1.15), 1)


def _paving(rng, draw, colour, size):
    step = int(rng.integers(30, 64))
    for x in range(0, size[1], step):
        for y in range(0, size[0], step):
            tone = shaded(colour, rng.normal(1, 0.07))
            draw.rectangle((x, y, x + step - 2, y + step - 2), tone)


PATTERNS = {
    "brick": _brick,
    "ashlar": _ashlar,
    "rubble": _rubble,
    "plaster": _plaster,
    "planks": _planks,
    "panels": _panels,
    "tiles": _tiles,
    "seams": _seams,
    "paving": _paving,
}
WALL_PATTERNS = ("brick", "ashlar", "rubble", "plaster", "panels", "ashlar", "plaster", "brick")
ROOF_PATTERNS = ("tiles", "seams", "planks", "tiles")
