"""Views of generated landmarks."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from delf_tf.checks import require
from delf_tf.synthetic.architecture import Landmark, build_landmark
from delf_tf.synthetic.geometry import Camera, Face
from delf_tf.synthetic.photo import photograph
from delf_tf.synthetic.raster import find_visible, paint
from delf_tf.synthetic.sprites import (
    Canvas,
    blend,
    draw_sprites,
    foreground,
    passing_sprites,
    permanent_sprites,
)
from delf_tf.synthetic.textures import Texture, fractal_noise, surface, tinted, weathered
from delf_tf.synthetic.weather import Weather, directions, draw_sky, light_up, random_weather

DEFAULT_SIZE = (480, 640)
# Grass, corn, water, earth, snow.
_GROUNDS = ((70, 96, 44), (150, 136, 84), (60, 92, 116), (126, 112, 96), (226, 228, 232))
_MIN_SIDE, _MAX_SIDE = 16, 4096

landmark_of = functools.lru_cache(maxsize=12)(build_landmark)


def render_view(
    landmark_seed: int,
    view_seed: int,
    size: tuple[int, int] = DEFAULT_SIZE,
    *,
    style_seed: int | None = None,
) -> np.ndarray:
    """Renders a photograph of a landmark.

    The same arguments give the same image. View seeds decide camera, light, weather, passers-by and
    the photograph's quality; every view shows some of the landmark, a detail at times.

    Args:
      landmark_seed: which landmark, from 0.
      view_seed: which view, from 0.
      size: (height, width) in pixels, 16 to 4096 each.
      style_seed: None, or the landmark that this one resembles; see `build_landmark`.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      InputError: a negative seed or a size out of range.
    """
    _check(landmark_seed, view_seed, size)
    rng, camera, landmark = _set_up(landmark_seed, view_seed, size, style_seed)
    image, _, _ = _compose(rng, camera, landmark, landmark_seed)
    return photograph(rng, image)


def render_landscape(seed: int, size: tuple[int, int] = DEFAULT_SIZE) -> np.ndarray:
    """Renders a photograph of no building: hills, trees, field or water under a sky.

    Args:
      seed: which, from 0.
      size: as for `render_view`.

    Returns:
      uint8 [H, W, 3], RGB.
    """
    _check(seed, 0, size)
    rng = np.random.default_rng([17, seed])
    weather = random_weather(rng)
    eye = float(rng.uniform(1.6, 12))
    target = rng.uniform(-20, 20), eye + rng.uniform(-9, 3), -60
    camera = Camera.looking_at((0, eye, 0), target, view_angle=rng.uniform(0.6, 1.1), size=size)
    sky = draw_sky(rng, weather, directions(camera), _skyline(rng, rng.uniform(0.05, 0.3)))
    ground = _open_ground(rng)
    seen = find_visible(camera, ground)
    image = paint(camera, ground, seen, sky)
    image[seen.face >= 0] *= (weather.ambient + weather.direct * max(0.0, weather.sun[1])).astype(
        np.float32
    )
    num_trees = int(rng.choice([0, 4, 25, 80]))
    trees = rng.uniform((-0.7, -90, 3, 0), (0.7, -8, 12, 1), (num_trees, 4))
    trees[:, 0] *= -trees[:, 1]
    # Woods grow densest far away.
    trees[:, 1] -= 20 * (num_trees > 10)
    wood = Landmark("landscape", (), 40.0, 10.0, trees)
    draw_sprites(camera, permanent_sprites(wood, seed), image, seen.inverse_depth, weather.ambient)
    _add_haze(image, seen.inverse_depth, weather)
    return photograph(rng, image)


def _open_ground(rng: np.random.Generator) -> list[Face]:
    """Returns grass, corn, water, earth or snow to the horizon, and perhaps a road or river."""
    colour = np.array(_GROUNDS[rng.integers(len(_GROUNDS))], np.float32)
    relief = fractal_noise(rng, 512, 512, cells=int(rng.integers(6, 24)), octaves=5)
    relief = 1 + rng.uniform(0.1, 0.3) * relief + rng.normal(0, 0.05, relief.shape)
    pixels = np.clip(colour * relief[..., None], 0, 255).astype(np.uint8)
    plain = Texture.of(Image.fromarray(pixels))
    wide, turn = rng.uniform(3, 14), rng.uniform(-0.5, 0.5)
    faces = [_ground_face((-500, 0.0, -900), (1000, 0, 0), (0, 0, 1000), plain, (40, 40))]
    if rng.random() < 0.6:
        bare = tinted(_GROUNDS[rng.integers(len(_GROUNDS))], rng, 30)
        strip = Texture.of(weathered(rng, surface(rng, "plaster", bare, (256, 64))))
        far = (turn * -500 - wide / 2, 0.02, -500)
        faces.append(_ground_face(far, (wide, 0, 0), (turn * 500, 0, 500), strip, (1, 40)))
    return faces


def _ground_face(
    origin: tuple[float, ...],
    across: tuple[float, ...],
    down: tuple[float, ...],
    texture: Texture,
    repeat: tuple[float, float],
) -> Face:
    corner, right, near = (np.array(vector, np.float64) for vector in (origin, across, down))
    return Face(corner, right, near, texture, repeat=repeat)


def _check(seed: int, view_seed: int, size: tuple[int, int]) -> None:
    require(min(seed, view_seed) >= 0, "Seeds must be from 0.", seed=seed, view_seed=view_seed)
    require(
        len(size) == 2 and all(_MIN_SIDE <= side <= _MAX_SIDE for side in size),
        f"size must be (height, width), each {_MIN_SIDE} to {_MAX_SIDE}.",
        size=size,
    )


def _set_up(
    landmark_seed: int, view_seed: int, size: tuple[int, int], style_seed: int | None
) -> tuple[np.random.Generator, Camera, Landmark]:
    landmark = landmark_of(landmark_seed, style_seed)
    rng = np.random.default_rng([13, landmark_seed, view_seed])
    return rng, _random_camera(rng, landmark, size), landmark


def _random_camera(rng: np.random.Generator, landmark: Landmark, size: tuple[int, int]) -> Camera:
    """Overviews from all sides of the front, farther ones, and details."""
    height, width = size
    shares = min(1.0, width / height), min(1.0, height / width)
    extent = max(landmark.width / shares[0], landmark.height / shares[1])
    kind = rng.choice(4, p=[0.5, 0.22, 0.1, 0.18])
    view_angle = float(rng.uniform(0.6, 1.15))
    around = np.radians(rng.uniform(-72, 72) if kind == 1 else rng.normal(0, 24))
    fill = rng.uniform(0.6, 1.15) if kind != 2 else rng.uniform(1.4, 2.4)
    distance = extent * fill / (2 * np.tan(view_angle / 2))
    place = distance * np.array([np.sin(around), 0.0, np.cos(around)])
    place[2] = max(7.0, place[2])
    place[1] = 1.7 if rng.random() < 0.65 else rng.uniform(2, 0.5 * landmark.height)
    target = np.array([rng.normal(0, 0.1), rng.uniform(0.34, 0.52), 0.0])
    target *= landmark.width, landmark.height, 1
    if kind == 3:
        facade = landmark.facade
        across, down = rng.uniform(0.15, 0.85), rng.uniform(0.1, 0.75)
        target = facade.origin + across * facade.across + down * facade.down
        view_angle *= float(rng.uniform(0.3, 0.6))
    roll = np.radians(rng.normal(0, 2.5) if rng.random() < 0.9 else rng.uniform(-14, 14))
    return Camera.looking_at(place, target, roll=roll, view_angle=view_angle, size=size)


def _compose(
    rng: np.random.Generator, camera: Camera, landmark: Landmark, landmark_seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the image before photography, inverse depths, and where the façade is visible."""
    weather, rays = random_weather(rng), directions(camera)
    skyline = _skyline(np.random.default_rng([14, landmark_seed]), 0.12)
    sky = draw_sky(rng, weather, rays, skyline)
    seen = find_visible(camera, landmark.faces)
    image = paint(camera, landmark.faces, seen, sky)
    middle = np.array([0.0, landmark.height / 3, 0.0])
    image *= light_up(camera, landmark.faces, seen, weather, rays=rays, target=middle)
    sprites = permanent_sprites(landmark, landmark_seed)
    sprites += passing_sprites(rng, landmark, camera)
    hidden = draw_sprites(
        camera, sprites, image, seen.inverse_depth, weather.ambient + weather.direct * 0.5
    )
    _add_haze(image, seen.inverse_depth, weather)
    _add_foreground(rng, image, seen.inverse_depth, weather, hidden)
    facade = next(at for at, face in enumerate(landmark.faces) if face.is_facade)
    return image, seen.inverse_depth, (seen.face == facade) & ~hidden


def _add_haze(image: np.ndarray, inverse_depth: np.ndarray, weather: Weather) -> None:
    if weather.haze > 1e-4:
        left = np.exp(-weather.haze / np.maximum(inverse_depth, 1 / 300))[..., None]
        image *= left
        image += (1 - left) * weather.horizon.astype(np.float32)


def _add_foreground(
    rng: np.random.Generator,
    image: np.ndarray,
    inverse_depth: np.ndarray,
    weather: Weather,
    hidden: np.ndarray,
) -> None:
    picture = foreground(rng, 320)
    if picture is not None:
        size = image.shape[1], image.shape[0]
        target = Canvas(image, inverse_depth, hidden, weather.ambient)
        blend(picture, (0, 0), size, target, nearness=1.0)


def _skyline(rng: np.random.Generator, highest: float) -> np.ndarray:
    """Returns heights of hills around a place: float32 [2048], sines of angles."""
    profile = fractal_noise(rng, 2, 2048, cells=14, octaves=5)[0]
    return np.maximum(0.004, (profile + 0.3) * np.float32(highest * 0.5)).astype(np.float32)
