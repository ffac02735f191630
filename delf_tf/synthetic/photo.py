"""Photographic effects: exposure, colour, blur, noise, compression."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter


def photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Makes a photograph of a rendered view.

    Args:
      rng: decides everything.
      image: float32 [H, W, 3], 0..255.

    Returns:
      uint8 [H, W, 3].
    """
    picture = Image.fromarray(_expose(rng, image))
    picture = _blur(rng, picture)
    pixels = _noise(rng, np.asarray(picture))
    return _compress(rng, Image.fromarray(pixels))


def _expose(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Exposure, white balance, saturation, vignetting, then contrast and gamma by a table."""
    # Cameras lift what is dark, though not to full daylight.
    metered = np.clip(125 / max(1.0, float(image.mean())), 0.7, 3.0) ** 0.75
    gain = metered * np.exp(rng.normal(0, 0.16)) * np.exp(rng.normal(0, 0.035, 3))
    grey = np.float32([0.3, 0.59, 0.11])
    saturation = float(np.clip(rng.normal(1.0, 0.22), 0.0, 1.6))
    saturation *= float(rng.random() > 0.03)
    mix = saturation * np.eye(3) + (1 - saturation) * grey[None]
    image = image @ (mix.T * gain).astype(np.float32)
    height, width = image.shape[:2]
    fall = np.float32(rng.uniform(0, 0.28))
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    x = np.linspace(-1, 1, width, dtype=np.float32) ** 2
    image *= (1 - fall * (x + y) / 2)[..., None]
    level = np.arange(256) / 255
    gamma, contrast = np.exp(rng.normal(0, 0.16)), rng.uniform(0.75, 1.25)
    curve = np.clip((level**gamma - 0.5) * contrast + 0.5 + rng.normal(0, 0.03), 0, 1)
    table = np.rint(curve * 255).astype(np.uint8)
    return table[np.clip(image, 0, 255).astype(np.uint8)]


def _blur(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Slight defocus always; shake or a soft lens at times."""
    kind, scale = rng.random(), max(picture.size) / 640
    if kind < 0.1:
        length = int(rng.integers(3, 3 + max(1, round(6 * scale))))
        pixels = np.asarray(picture, np.float32)
        across = int(rng.integers(0, 2))
        moved = [np.roll(pixels, step - length // 2, axis=across) for step in range(length)]
        return Image.fromarray((sum(moved) / length).astype(np.uint8))
    radius = rng.uniform(0.9, 2.0) * scale if kind < 0.22 else rng.uniform(0.35, 0.7)
    return picture.filter(ImageFilter.GaussianBlur(float(radius)))


def _noise(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    strength = float(rng.choice([1.5, 4.0, 9.0], p=[0.6, 0.3, 0.1]))
    grain = rng.standard_normal((128, *pixels.shape[1:]), np.float32) * np.float32(strength)
    rows = np.arange(pixels.shape[0]) % 128
    return np.clip(pixels + grain[rows] + 0.5, 0, 255).astype(np.uint8)


def _compress(rng: np.random.Generator, picture: Image.Image) -> np.ndarray:
    """Loses detail as a smaller copy at times, and by JPEG always."""
    if rng.random() < 0.12:
        smaller = tuple(max(1, round(side * rng.uniform(0.5, 0.8))) for side in picture.size)
        shrunk = picture.resize((smaller[0], smaller[1]), Image.Resampling.BILINEAR)
        picture = shrunk.resize(picture.size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(rng.integers(45, 96)))
    return np.array(Image.open(file))
