"""Cameras and textured planar faces.

World: metres, x to the right along the main façade, y up, z towards the viewer; the ground is y = 0
and the main façade lies near z = 0. Pixels: (x, y), the centre of the top-left one is (0, 0).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from delf_tf.synthetic.textures import Texture

# Half-planes e with e · (u, v, 1) >= 0 that bound a face in its own coordinates.
QUAD = np.array([(1, 0, 0), (-1, 0, 1), (0, 1, 0), (0, -1, 1)], np.float64)
GABLE = np.array([(2, 1, -1), (-2, 1, 1), (0, -1, 1)], np.float64)


def trapezoid(inset: float) -> np.ndarray:
    """Returns the edges of a face whose top is shorter by `inset` (0 to 0.5) at each end."""
    return np.array([(1, inset, -inset), (-1, inset, 1 - inset), (0, 1, 0), (0, -1, 1)], np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Face:
    """A planar piece of a scene, seen from one side only.

    Attributes:
      origin: float64 [3], where (u, v) is (0, 0): the top-left corner seen from outside.
      across, down: float64 [3], edges along u and v; down × across points outside.
      texture: what is on it.
      edges: float64 [E, 3], half-planes in (u, v, 1) that bound it.
      repeat: how often the texture repeats along u and v.
      is_facade: whether it is the landmark's dominant façade.
    """

    origin: np.ndarray
    across: np.ndarray
    down: np.ndarray
    texture: Texture
    edges: np.ndarray = dataclasses.field(default_factory=lambda: QUAD)
    repeat: tuple[float, float] = (1.0, 1.0)
    is_facade: bool = False

    @functools.cached_property
    def normal(self) -> np.ndarray:
        """Unit vector [3] to the outside."""
        normal = np.cross(self.down, self.across)
        return normal / np.linalg.norm(normal)


@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera.

    Attributes:
      position: float64 [3], metres.
      rotation: float64 [3, 3], rows are the camera's right, down and forward in the world.
      intrinsics: float64 [3, 3], to pixels (x, y, 1).
      height, width: of the image in pixels.
    """

    position: np.ndarray
    rotation: np.ndarray
    intrinsics: np.ndarray
    height: int
    width: int

    @classmethod
    def looking_at(
        cls,
        position: Sequence[float],
        target: Sequence[float],
        *,
        roll: float = 0.0,
        view_angle: float = 1.0,
        size: tuple[int, int] = (480, 640),
    ) -> Camera:
        """Returns a camera.

        Args:
          position: metres.
          target: the point in the image's middle.
          roll: radians, clockwise turn of the camera.
          view_angle: radians, across the image's larger side.
          size: (height, width) in pixels.
        """
        place = np.asarray(position, np.float64)
        forward = np.asarray(target, np.float64) - place
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 1.0, 0.0))
        right /= np.linalg.norm(right)
        down = np.cross(forward, right)
        cos, sin = np.cos(roll), np.sin(roll)
        axes = np.stack([cos * right + sin * down, cos * down - sin * right, forward])
        height, width = size
        focal = max(size) / 2 / np.tan(view_angle / 2)
        intrinsics = np.array(
            [(focal, 0, (width - 1) / 2), (0, focal, (height - 1) / 2), (0, 0, 1)]
        )
        return cls(place, axes, intrinsics, height, width)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Projects world points.

        Args:
          points: [N, 3].

        Returns:
          (x, y) pixels [N, 2] and depths along the camera's axis [N]; pixels mean nothing where
          the depth is not positive.
        """
        local = (np.asarray(points, np.float64) - self.position) @ self.rotation.T
        depths = local[:, 2]
        safe = np.where(np.abs(depths) < 1e-9, 1e-9, depths)
        pixels = (local / safe[:, None]) @ self.intrinsics.T
        return pixels[:, :2], depths

    def faces_to_pixels(self, faces: Sequence[Face]) -> np.ndarray:
        """Returns homographies [F, 3, 3] from (u, v, 1) of each face to pixels (x, y, 1)."""
        columns = np.stack(
            [(face.across, face.down, face.origin - self.position) for face in faces]
        ).transpose(0, 2, 1)
        return (self.intrinsics @ self.rotation) @ columns

    def pixels_to_faces(self, faces: Sequence[Face]) -> np.ndarray:
        """Returns matrices [F, 3, 3] from (x, y, 1) to (u, v, 1) / depth of each face.

        A face seen exactly edge-on gives no finite numbers.
        """
        first, second, third = np.moveaxis(self.faces_to_pixels(faces), 2, 0)
        rows = np.stack(
            [np.cross(second, third), np.cross(third, first), np.cross(first, second)], axis=1
        )
        # The adjugate by hand: LAPACK's threads take longer to wake than this takes.
        determinants = np.einsum("fi,fi->f", first, rows[:, 0])
        return rows / np.where(determinants == 0, np.nan, determinants)[:, None, None]
