"""A z-buffer renderer for textured planar faces, in NumPy.

For a face, (u, v, 1) / depth is a linear function of the pixel (Camera.pixels_to_face). So depth,
coverage and texture coordinates of a whole face cost a few multiplications a pixel, and faces may
cut through each other or the camera's plane without special cases.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from delf_tf.synthetic.geometry import Camera, Face


@dataclasses.dataclass(frozen=True, eq=False)
class Visibility:
    """What a camera sees of a scene.

    Attributes:
      face: int16 [H, W], index of the nearest face, -1 for the sky.
      inverse_depth: float32 [H, W], 1 / metres along the camera's axis; 0 for the sky.
    """

    face: np.ndarray
    inverse_depth: np.ndarray


def find_visible(camera: Camera, faces: Sequence[Face]) -> Visibility:
    """Finds which face each pixel shows."""
    shape = camera.height, camera.width
    seen = Visibility(np.full(shape, -1, np.int16), np.zeros(shape, np.float32))
    normals = np.stack([face.normal for face in faces])
    origins = np.stack([face.origin for face in faces])
    towards = np.einsum("fi,fi->f", normals, camera.position - origins) > 1e-6
    to_faces, windows = camera.pixels_to_faces(faces), _windows(camera, faces)
    for index in np.flatnonzero(towards).tolist():
        y0, x0, y1, x1 = windows[index].tolist()
        if y0 < y1 and x0 < x1:
            _draw(faces[index], to_faces[index], (y0, x0, y1, x1), index, seen)
    return seen


def _draw(
    face: Face, to_face: np.ndarray, window: tuple[int, int, int, int], index: int, seen: Visibility
) -> None:
    y0, x0, y1, x1 = window
    xs = np.arange(x0, x1, dtype=np.float64)
    ys = np.arange(y0, y1, dtype=np.float64)[:, None]

    def linear(row: np.ndarray) -> np.ndarray:
        across = (row[0] * xs).astype(np.float32)
        return across + (row[1] * ys + row[2]).astype(np.float32)

    inverse_depth = linear(to_face[2])
    nearest = seen.inverse_depth[y0:y1, x0:x1]
    shown = inverse_depth > nearest
    for edge in face.edges @ to_face:
        shown &= linear(edge) >= 0
    np.copyto(nearest, inverse_depth, where=shown)
    np.copyto(seen.face[y0:y1, x0:x1], np.int16(index), where=shown)


def _windows(camera: Camera, faces: Sequence[Face]) -> np.ndarray:
    """Returns the pixels that each face can lie in: int [F, 4], y0, x0, y1, x1."""
    steps = np.array([(0, 0), (1, 0), (0, 1), (1, 1)], np.float64)
    axes = np.stack([(face.across, face.down) for face in faces])
    origins = np.stack([face.origin for face in faces])
    pixels, depths = camera.project((origins[:, None] + steps @ axes).reshape(-1, 3))
    pixels, behind = pixels.reshape(-1, 4, 2), depths.reshape(-1, 4) <= 1e-3
    limits = camera.width, camera.height
    low = np.clip(np.floor(pixels.min(1)), 0, limits)
    high = np.clip(np.ceil(pixels.max(1)) + 1, 0, limits)
    # Through the camera's plane: corners tell nothing. Behind it: nothing to draw.
    through = behind.any(1)
    low[through], high[through] = 0, limits
    high[behind.all(1)] = 0
    return np.concatenate([low[:, ::-1], high[:, ::-1]], axis=1).astype(int)


def paint(camera: Camera, faces: Sequence[Face], seen: Visibility, sky: np.ndarray) -> np.ndarray:
    """Puts the textures on what `find_visible` found.

    Args:
      camera: that was used.
      faces: that were used.
      seen: the result.
      sky: float32 [H, W, 3] in 0..255, shown where no face is.

    Returns:
      float32 [H, W, 3], 0..255, as if all were lit alike.
    """
    image = np.array(sky, np.float32).reshape(-1, 3)
    to_faces = camera.pixels_to_faces(faces)
    order = np.argsort(seen.face, axis=None, kind="stable")
    starts = np.searchsorted(seen.face.ravel()[order], np.arange(len(faces) + 1))
    for index, face in enumerate(faces):
        pixels = order[starts[index] : starts[index + 1]]
        if pixels.size:
            _paint_face(face, to_faces[index], camera.width, pixels, image)
    return image.reshape(camera.height, camera.width, 3)


def _paint_face(
    face: Face, to_face: np.ndarray, width: int, pixels: np.ndarray, image: np.ndarray
) -> None:
    y, x = np.divmod(pixels, width)
    a, b, c = (row[0] * x + row[1] * y + row[2] for row in to_face)
    u, v = a / c * face.repeat[0] % 1.0, b / c * face.repeat[1] % 1.0
    top = face.texture.levels[0]
    # Texels a pixel: the determinant of the map from pixels to texels, at each pixel.
    area = abs(np.dot(to_face[0], np.cross(to_face[1], to_face[2])))
    area *= face.repeat[0] * face.repeat[1]
    area *= top.shape[0] * top.shape[1]
    levels = np.clip(
        np.rint(0.5 * np.log2(np.maximum(area / np.abs(c) ** 3, 1e-9)) - 0.2),
        0,
        len(face.texture.levels) - 1,
    ).astype(np.int8)
    for level in range(int(levels.min()), int(levels.max()) + 1):
        rows = np.flatnonzero(levels == level)
        if rows.size:
            image[pixels[rows]] = _sample(face.texture.levels[level], u[rows], v[rows])


def _sample(texture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Interpolates bilinearly; returns float32 [N, 3]. Edges are repeated outwards."""
    height, width = texture.shape[:2]
    x = np.clip(u * width - 0.5, 0, width - 1).astype(np.float32)
    y = np.clip(v * height - 0.5, 0, height - 1).astype(np.float32)
    column, row = x.astype(np.int32), y.astype(np.int32)
    fx, fy = (x - column)[:, None], (y - row)[:, None]
    flat = texture.reshape(-1, 3)
    here = row * width + column
    right = (column < width - 1).astype(np.int32)
    below = (row < height - 1).astype(np.int32) * width
    upper = flat[here] * (1 - fx) + flat[here + right] * fx
    lower = flat[here + below] * (1 - fx) + flat[here + below + right] * fx
    return upper * (1 - fy) + lower * fy
