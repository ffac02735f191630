"""Flat things in front of buildings: trees, people, cars, lamps, branches close to the camera."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from delf_tf.synthetic.architecture import Landmark
from delf_tf.synthetic.geometry import Camera
from delf_tf.synthetic.textures import shaded, tinted

_DRAWN_PX = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Sprite:
    """A picture that stands upright in the scene.

    Attributes:
      picture: RGBA, of any size.
      foot: float64 [3], the middle of its lower edge, metres.
      height: metres.
    """

    picture: Image.Image
    foot: np.ndarray
    height: float


class Canvas(NamedTuple):
    """What sprites are drawn on, in place.

    Attributes:
      image: float32 [H, W, 3], 0..255.
      inverse_depth: float32 [H, W]; becomes the sprites' own where they cover.
      hidden: bool [H, W]; becomes True where they cover.
      light: factors [3] of their colours.
    """

    image: np.ndarray
    inverse_depth: np.ndarray
    hidden: np.ndarray
    light: np.ndarray


def permanent_sprites(landmark: Landmark, landmark_seed: int) -> list[Sprite]:
    """Returns the trees that belong to a place."""
    return [
        Sprite(_tree(landmark_seed * 7 + at, float(hue)), np.array([x, 0.0, z]), float(height))
        for at, (x, z, height, hue) in enumerate(landmark.trees)
    ]


def passing_sprites(rng: np.random.Generator, landmark: Landmark, camera: Camera) -> list[Sprite]:
    """Returns people, cars and the like that one view happens to catch."""
    sprites: list[Sprite] = []
    crowd = int(rng.choice([0, 2, 5, 12], p=[0.3, 0.35, 0.25, 0.1]))
    sprites.extend(
        Sprite(_person(rng), _spot(rng, landmark, camera), float(rng.uniform(1.55, 1.9)))
        for _ in range(crowd)
    )
    sprites.extend(
        Sprite(_car(rng), _spot(rng, landmark, camera), float(rng.uniform(1.4, 2.2)))
        for _ in range(int(rng.choice([0, 1, 3], p=[0.65, 0.25, 0.1])))
    )
    for _ in range(int(rng.choice([0, 1, 2], p=[0.55, 0.3, 0.15]))):
        foot = _spot(rng, landmark, camera)
        if rng.random() < 0.5:
            sprites.append(Sprite(_lamp(rng), foot, float(rng.uniform(4, 8))))
        else:
            tree = _tree(int(rng.integers(1 << 30)), float(rng.uniform(0, 1)))
            sprites.append(Sprite(tree, foot, float(rng.uniform(3, 9))))
    return sprites


def _spot(rng: np.random.Generator, landmark: Landmark, camera: Camera) -> np.ndarray:
    """Returns a point on the ground between the building and the camera."""
    start = np.array([rng.uniform(-0.6, 0.6) * landmark.width, 0.0, 2.0])
    end = np.array([camera.position[0], 0.0, camera.position[2]])
    return start + (end - start) * rng.uniform(0.05, 0.8)


def draw_sprites(
    camera: Camera,
    sprites: list[Sprite],
    image: np.ndarray,
    inverse_depth: np.ndarray,
    light: np.ndarray,
) -> np.ndarray:
    """Draws sprites where nothing hides them, in place.

    Args:
      camera: the view's.
      sprites: in any order.
      image: see `Canvas`.
      inverse_depth: see `Canvas`.
      light: see `Canvas`.

    Returns:
      bool [H, W], where a sprite hides more than half of what is behind.
    """
    canvas = Canvas(image, inverse_depth, np.zeros(inverse_depth.shape, bool), light)
    placed = []
    for sprite in sprites:
        head = sprite.foot + np.array([0.0, sprite.height, 0.0])
        pixels, depths = camera.project(np.stack([sprite.foot, head]))
        if depths.min() > 0.8:
            placed.append((float(depths[0]), pixels, sprite.picture))
    for depth, pixels, picture in sorted(placed, key=lambda item: -item[0]):
        tall = abs(pixels[0, 1] - pixels[1, 1])
        wide = tall * picture.width / picture.height
        corner = round(pixels[0, 0] - wide / 2), round(pixels[1, 1])
        size = max(1, round(wide)), max(1, round(tall))
        if max(size) < 3 * max(camera.height, camera.width):
            blend(picture, corner, size, canvas, nearness=1 / depth)
    return canvas.hidden


def blend(
    picture: Image.Image,
    corner: tuple[int, int],
    size: tuple[int, int],
    canvas: Canvas,
    *,
    nearness: float,
) -> None:
    """Draws an RGBA picture where the canvas is farther away, in place.

    Args:
      picture: RGBA.
      corner: (x, y) of its top-left pixel, which may lie outside.
      size: (width, height) to draw it at.
      canvas: what to draw on.
      nearness: the picture's own inverse depth.
    """
    height, width = canvas.hidden.shape
    x0, y0 = max(corner[0], 0), max(corner[1], 0)
    x1, y1 = min(corner[0] + size[0], width), min(corner[1] + size[1], height)
    if x0 >= x1 or y0 >= y1:
        return
    scale = np.array([picture.width / size[0], picture.height / size[1]])
    box = np.concatenate(
        [((x0, y0) - np.array(corner)) * scale, ((x1, y1) - np.array(corner)) * scale]
    )
    part = picture.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, tuple(box.tolist()))
    pixels, window = np.asarray(part, np.float32), np.s_[y0:y1, x0:x1]
    alpha = pixels[..., 3] / 255 * (canvas.inverse_depth[window] < nearness)
    colours = pixels[..., :3] * canvas.light.astype(np.float32)
    canvas.image[window] += alpha[..., None] * (colours - canvas.image[window])
    covered = alpha > 0.5
    canvas.hidden[window] |= covered
    canvas.inverse_depth[window][covered] = nearness


def _canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGBA", (width, height), (90, 90, 90, 0))
    return image, ImageDraw.Draw(image)


@functools.lru_cache(maxsize=64)
def _tree(seed: int, hue: float) -> Image.Image:
    rng = np.random.default_rng([21, seed])
    height, width = _DRAWN_PX, int(_DRAWN_PX * rng.uniform(0.45, 0.85))
    image, draw = _canvas(width, height)
    middle, trunk = width / 2, width * rng.uniform(0.03, 0.07)
    draw.polygon(
        [(middle - trunk, height), (middle + trunk, height), (middle, height * 0.25)],
        (*tinted((84, 66, 50), rng), 255),
    )
    green = (60 + 70 * hue, 96 + 16 * hue, 40 + 10 * (1 - hue))
    crown = rng.uniform(0.5, 0.72) * height
    for at in range(260):
        angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1))
        x = middle + np.cos(angle) * reach * width * 0.44
        y = crown * 0.55 + np.sin(angle) * reach * crown * 0.5
        radius = rng.uniform(2, 5.5) * (2.6 if at < 60 else 1)
        tone = shaded(green, 1.15 - 0.5 * y / crown + rng.normal(0, 0.12))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), (*tone, 255))
    return image


def _person(rng: np.random.Generator) -> Image.Image:
    image, draw = _canvas(40, 110)
    coat, legs = (tinted(rng.integers(20, 220, 3), rng) for _ in range(2))
    skin = tinted(((222, 180, 150), (150, 104, 76), (96, 66, 48))[rng.integers(3)], rng, 8)
    stride = int(rng.integers(0, 7))
    for side in (-1, 1):
        draw.line((20, 60, 20 + side * (3 + stride), 109), (*legs, 255), 8)
    draw.rounded_rectangle((10, 20, 30, 66), 8, (*coat, 255))
    for side in (-1, 1):
        draw.line(
            (20 + side * 9, 26, 20 + side * (11 + stride / 2), 60), (*shaded(coat, 0.85), 255), 6
        )
    draw.ellipse((13, 2, 27, 20), (*skin, 255))
    draw.pieslice((13, 1, 27, 18), 180, 360, (*tinted((60, 44, 34), rng, 30), 255))
    return image


def _car(rng: np.random.Generator) -> Image.Image:
    image, draw = _canvas(220, 84)
    paint = tinted(
        ((200, 200, 204), (40, 42, 46), (150, 30, 34), (40, 70, 130))[rng.integers(4)], rng
    )
    draw.polygon([(46, 34), (72, 4), (150, 4), (184, 34)], (*paint, 255))
    draw.polygon([(56, 34), (76, 10), (108, 10), (108, 34)], (50, 60, 70, 255))
    draw.polygon([(114, 34), (114, 10), (146, 10), (172, 34)], (50, 60, 70, 255))
    draw.rounded_rectangle((6, 32, 214, 68), 12, (*shaded(paint, 0.92), 255))
    for x in (52, 166):
        draw.ellipse((x - 17, 48, x + 17, 82), (24, 24, 26, 255))
        draw.ellipse((x - 8, 57, x + 8, 73), (150, 150, 154, 255))
    return image if rng.random() < 0.5 else image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _lamp(rng: np.random.Generator) -> Image.Image:
    image, draw = _canvas(50, 200)
    iron = (*tinted((50, 54, 56), rng, 10), 255)
    draw.rectangle((23, 20, 27, 199), iron)
    draw.rectangle((19, 180, 31, 199), iron)
    arms = ((25,),) if rng.random() < 0.5 else ((10, 40),)
    for x in arms[0]:
        draw.line((25, 30, x, 22), iron, 3)
        draw.ellipse((x - 8, 4, x + 8, 24), (236, 228, 200, 255), iron)
    return image


def foreground(rng: np.random.Generator, side: int) -> Image.Image | None:
    """Returns what hangs or stands close to the camera, RGBA side × side, or usually None."""
    if rng.random() < 0.72:
        return None
    image, draw = _canvas(side, side)
    if rng.random() < 0.35:
        x, thick = rng.uniform(0.05, 0.95) * side, side * rng.uniform(0.01, 0.035)
        draw.rectangle((x - thick, 0, x + thick, side), (*tinted((70, 70, 74), rng, 20), 255))
        return image
    corner = np.array([rng.choice([0.0, 1.0]), rng.choice([0.0, 0.0, 0.9])]) * side
    reach, green = rng.uniform(0.12, 0.3) * side, rng.uniform((40, 60, 20), (110, 120, 50))
    spots = rng.normal(0, reach, (170, 2)) + corner
    for spot in spots:
        angle, length = rng.uniform(0, np.pi), rng.uniform(0.012, 0.04) * side
        along = np.array([np.cos(angle), np.sin(angle)]) * length
        aside = np.array([-along[1], along[0]]) * 0.3
        leaf = [tuple(point) for point in (spot - along, spot + aside, spot + along, spot - aside)]
        draw.polygon(leaf, (*shaded(green, rng.uniform(0.5, 1.2)), 255))
    return image
