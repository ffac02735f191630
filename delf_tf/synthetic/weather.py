"""Sky, light and shadow of a view."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from delf_tf.synthetic.geometry import Camera, Face
from delf_tf.synthetic.raster import Visibility, find_visible
from delf_tf.synthetic.textures import fractal_noise

_SHADOW_SIDE = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Weather:
    """Light and air.

    Attributes:
      zenith, horizon: colours of the sky, [3] in 0..255.
      ambient, direct: factors [3] of colours by sky and by sun.
      sun: unit vector [3] towards the sun.
      cloudiness: 0 (none) to 1.
      haze: share of light lost a metre.
    """

    zenith: np.ndarray
    horizon: np.ndarray
    ambient: np.ndarray
    direct: np.ndarray
    sun: np.ndarray
    cloudiness: float
    haze: float


class _Kind(NamedTuple):
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    ambient: tuple[float, float, float]
    direct: tuple[float, float, float]
    sun_degrees: tuple[float, float]
    cloudiness: float
    haze: tuple[float, float]
    share: float


_CLEAR_AIR = (0.0, 0.0025)
# Clear, fair, overcast, evening, night with lamps, fog.
_KINDS = (
    _Kind(
        (78, 128, 200), (190, 212, 234), (0.52, 0.56, 0.64), (0.66, 0.62, 0.52),
        (25, 65), 0.35, _CLEAR_AIR, 0.34,
    ),
    _Kind(
        (120, 156, 206), (214, 222, 230), (0.62, 0.64, 0.68), (0.45, 0.43, 0.38),
        (25, 60), 0.9, _CLEAR_AIR, 0.2,
    ),
    _Kind(
        (176, 182, 190), (214, 216, 218), (0.86, 0.87, 0.9), (0.1, 0.1, 0.1),
        (40, 70), 0.7, _CLEAR_AIR, 0.24,
    ),
    _Kind(
        (96, 104, 150), (240, 178, 120), (0.42, 0.4, 0.48), (0.85, 0.58, 0.32),
        (6, 18), 0.6, _CLEAR_AIR, 0.12,
    ),
    _Kind(
        (20, 26, 52), (70, 66, 84), (0.3, 0.3, 0.4), (0.55, 0.42, 0.24),
        (-30, -12), 0.3, _CLEAR_AIR, 0.06,
    ),
    _Kind(
        (200, 204, 206), (222, 222, 220), (0.84, 0.86, 0.88), (0.04, 0.04, 0.04),
        (40, 70), 0.1, (0.008, 0.02), 0.04,
    ),
)  # fmt: skip


def random_weather(rng: np.random.Generator) -> Weather:
    """Returns one of clear, fair, overcast, evening, lit by night, and foggy, varied a little."""
    which = int(rng.choice(len(_KINDS), p=[kind.share for kind in _KINDS]))
    kind = _KINDS[which]
    height, around = np.radians(rng.uniform(*kind.sun_degrees)), np.radians(rng.uniform(-85, 85))
    if rng.random() < 0.2 and height > 0:
        around = np.pi - around
    level = np.cos(height)
    return Weather(
        zenith=np.array(kind.zenith) * rng.uniform(0.85, 1.1),
        horizon=np.array(kind.horizon) * rng.uniform(0.9, 1.05),
        ambient=np.array(kind.ambient) * rng.uniform(0.85, 1.15),
        direct=np.array(kind.direct) * rng.uniform(0.8, 1.2),
        sun=np.array([level * np.sin(around), np.sin(height), level * np.cos(around)]),
        cloudiness=kind.cloudiness * float(rng.uniform(0.4, 1)),
        haze=float(rng.uniform(*kind.haze)),
    )


def directions(camera: Camera) -> np.ndarray:
    """Returns float32 [H, W, 3]: world directions of the pixels, 1 long along the camera's axis."""
    to_world = camera.rotation.T @ np.linalg.inv(camera.intrinsics)
    x = np.arange(camera.width, dtype=np.float64)[None, :, None]
    y = np.arange(camera.height, dtype=np.float64)[:, None, None]
    return (x * to_world[:, 0] + y * to_world[:, 1] + to_world[:, 2]).astype(np.float32)


def draw_sky(
    rng: np.random.Generator, weather: Weather, rays: np.ndarray, skyline: np.ndarray
) -> np.ndarray:
    """Draws sky, clouds and the far skyline.

    Args:
      rng: decides the clouds.
      weather: gives the colours.
      rays: float32 [H, W, 3], from `directions`.
      skyline: float32 [S], heights (sines of angles) of far hills all around the place.

    Returns:
      float32 [H, W, 3], 0..255.
    """
    height, width = rays.shape[:2]
    up = rays[..., 1] / np.sqrt(np.einsum("hwc,hwc->hw", rays, rays))
    share = np.clip(up * 1.6, 0, 1)[..., None]
    horizon, zenith = weather.horizon.astype(np.float32), weather.zenith.astype(np.float32)
    sky = horizon + (zenith - horizon) * share
    clouds = fractal_noise(rng, -(-height // 4), -(-width // 4), cells=2, octaves=4)
    clouds = np.asarray(Image.fromarray(clouds).resize((width, height), Image.Resampling.BICUBIC))
    cover = np.clip((clouds + weather.cloudiness * 1.4 - 0.9) * 1.2, 0, 0.9)[..., None]
    sky += cover * (horizon * np.float32(1.08) - sky)
    # From -π to π with the seam behind the viewer, who looks along -z.
    around = np.arctan2(rays[..., 0], -rays[..., 2])
    place = ((around + np.pi) * (len(skyline) / (2 * np.pi))).astype(np.int32) % len(skyline)
    hills = up < skyline[place]
    sky[hills] = weather.horizon * 0.55 + np.array((40, 52, 44)) * weather.ambient * 0.8
    return sky


def light_up(
    camera: Camera,
    faces: Sequence[Face],
    seen: Visibility,
    weather: Weather,
    *,
    rays: np.ndarray,
    target: np.ndarray,
) -> np.ndarray:
    """Returns the light on each pixel, with cast shadows: float32 [H, W, 3], 1 in the sky.

    Args:
      camera: of the view.
      faces: of the scene.
      seen: what `find_visible` found.
      weather: gives the light.
      rays: from `directions(camera)`.
      target: float64 [3], the middle of what throws shadows.
    """
    normals = np.stack([face.normal for face in faces])
    slant = np.clip(normals @ weather.sun, 0, 1)
    if weather.sun[1] < 0:
        # By night lamps on the ground shine on what stands upright.
        slant = np.clip(normals @ np.array([0.0, 0.0, 1.0]), 0, 1)
    upward = (0.82 + 0.18 * normals[:, 1])[:, None]
    ambient = np.concatenate([weather.ambient * upward, np.ones((1, 3))]).astype(np.float32)
    direct = np.concatenate([weather.direct * slant[:, None], np.zeros((1, 3))]).astype(np.float32)
    light = direct[seen.face]
    if weather.sun[1] > 0 and weather.direct.max() > 0.2:
        points = (
            camera.position
            + rays[::2, ::2] / np.maximum(seen.inverse_depth[::2, ::2], 1e-4)[..., None]
        )
        half = _sunlit(faces, weather.sun, points, target)
        lit = np.repeat(np.repeat(half, 2, axis=0), 2, axis=1)
        light *= lit[: light.shape[0], : light.shape[1], None]
    light += ambient[seen.face]
    return light


def _sunlit(
    faces: Sequence[Face], sun: np.ndarray, points: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Returns whether points [..., 3] are seen from the sun as well, by a shadow map."""
    size = _SHADOW_SIDE, _SHADOW_SIDE
    reach = 2 * float(np.arctan(45 / 400))
    from_sun = Camera.looking_at(target + 400 * sun, target, view_angle=reach, size=size)
    lit = find_visible(from_sun, faces).inverse_depth
    to_sun = (from_sun.intrinsics @ from_sun.rotation).T
    moved = (points - from_sun.position).astype(np.float32) @ to_sun.astype(np.float32)
    depth = moved[..., 2]
    column = np.clip(np.rint(moved[..., 0] / depth), 0, size[1] - 1).astype(np.int32)
    row = np.clip(np.rint(moved[..., 1] / depth), 0, size[0] - 1).astype(np.int32)
    # Half a metre of slack hides the coarseness of the map.
    return 1 / np.maximum(lit[row, column], np.float32(1e-6)) > depth - 0.5
