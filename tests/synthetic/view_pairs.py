"""The exact geometry between views of generated landmarks."""

from __future__ import annotations

import dataclasses

import numpy as np

from delf_tf.synthetic.geometry import Camera
from delf_tf.synthetic.views import DEFAULT_SIZE, _compose, _set_up


@dataclasses.dataclass(frozen=True, eq=False)
class ViewGeometry:
    """What is where in a view.

    Attributes:
      camera: world to pixels.
      inverse_depth: float32 [H, W], 1 / metres along the camera's axis; 0 in the sky.
      facade_mask: bool [H, W], where the dominant façade is visible.
      facade_to_pixels: float64 [3, 3], from the façade's (u, v, 1) to pixels (x, y, 1).
    """

    camera: Camera
    inverse_depth: np.ndarray
    facade_mask: np.ndarray
    facade_to_pixels: np.ndarray


def view_geometry(
    landmark_seed: int,
    view_seed: int,
    size: tuple[int, int] = DEFAULT_SIZE,
    *,
    style_seed: int | None = None,
) -> ViewGeometry:
    """Returns the geometry of what `render_view` shows for the same arguments."""
    rng, camera, landmark = _set_up(landmark_seed, view_seed, size, style_seed)
    _, inverse_depth, shows_facade = _compose(rng, camera, landmark, landmark_seed)
    to_pixels = camera.faces_to_pixels([landmark.facade])[0]
    return ViewGeometry(camera, inverse_depth, shows_facade, to_pixels / to_pixels[2, 2])


def facade_homography(
    landmark_seed: int,
    first_view: int,
    second_view: int,
    size: tuple[int, int] = DEFAULT_SIZE,
) -> np.ndarray:
    """Returns the homography of a landmark's dominant façade between two views.

    Nothing is rendered. The façade may lie outside either view; see `view_geometry`.

    Returns:
      float64 [3, 3], from (x, y, 1) of the first view to (x, y, 1) of the second.
    """
    first, second = (_set_up(landmark_seed, view, size, None) for view in (first_view, second_view))
    facades = [first[2].facade]
    between = second[1].faces_to_pixels(facades)[0] @ first[1].pixels_to_faces(facades)[0]
    return between / between[2, 2]


def correspond(
    first: ViewGeometry, second: ViewGeometry, locations: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Finds where points of one view of a landmark lie in another, for all its surfaces.

    Args:
      first: the view in which the points are given.
      second: the view in which they are sought.
      locations: [N, 2], (y, x) pixels of the first view.

    Returns:
      (y, x) pixels of the second view, float64 [N, 2], and bool [N], whether the point is visible
      in both views: inside them, on a surface, and hidden by nothing (depths agree within 2 %).
    """
    locations = np.asarray(locations, np.float64).reshape(-1, 2)
    near = _inverse_depth_at(first, locations)
    pixels = np.stack([locations[:, 1], locations[:, 0], np.ones(len(locations))])
    rays = first.camera.rotation.T @ np.linalg.inv(first.camera.intrinsics) @ pixels
    points = first.camera.position + (rays / np.maximum(near, 1e-9)).T
    moved, depths = second.camera.project(points)
    found = moved[:, ::-1]
    seen = _inverse_depth_at(second, found)
    visible = (near > 0) & (depths > 0) & (seen > 0) & (np.abs(seen * depths - 1) < 0.02)
    return found, visible


def _inverse_depth_at(view: ViewGeometry, locations: np.ndarray) -> np.ndarray:
    """Returns the inverse depth at the nearest pixels; 0 outside."""
    height, width = view.inverse_depth.shape
    inside = ((locations > -0.5) & (locations < (height - 0.5, width - 0.5))).all(1)
    rows = np.rint(np.where(inside[:, None], locations, 0)).astype(int)
    return np.where(inside, view.inverse_depth[rows[:, 0], rows[:, 1]], 0.0)
