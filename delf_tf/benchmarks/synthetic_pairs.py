"""Pairs of feature sets with known matches, to test and time verification.

A pair is two images of WIDTH x HEIGHT pixels with N features each. A share of the query's features
has a true counterpart: its location is taken over by the pair's transform, plus Gaussian noise; its
descriptor is the query's, plus noise, normalised. All other features of both images lie anywhere
and have random descriptors, whose components' variance falls as 1 / k, as after a PCA: the nearest
of 1000 random ones is then about 0.7 away, so that a threshold of 1.0 keeps them. The transform,
affine or a homography with visible perspective, rotates, scales and shears at random; true features
are drawn where they land inside the database image. Scales follow the area change of the transform,
rounded to a pyramid's steps of √2, so that they inform within a step.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from delf_tf.types import LocalFeatures

WIDTH, HEIGHT = 1024, 768
_SCALES = 2.0 ** (np.arange(7) / 2 - 1)


@dataclasses.dataclass(frozen=True, eq=False)
class SyntheticPair:
    """Two feature sets and the truth.

    Attributes:
      query: N features.
      database: N features.
      transform: [3, 3] of (x, y, 1), query to database; zeros for a pair without a match.
      truth: int64 [T, 2], the true (query row, database row).
    """

    query: LocalFeatures
    database: LocalFeatures
    transform: np.ndarray
    truth: np.ndarray


def make_pair(
    seed: int,
    kind: str = "affine",
    *,
    num_features: int = 1000,
    true_fraction: float = 0.15,
    dim: int = 40,
    location_noise_px: float = 3.0,
    descriptor_noise: float = 0.35,
) -> SyntheticPair:
    """Makes a pair.

    Args:
      seed: of everything random.
      kind: "affine", "homography" or "none", which has no true matches.
      num_features: N of both images.
      true_fraction: share of them with a true match.
      dim: of the descriptors, which are L2-normalised.
      location_noise_px: standard deviation in the database image, for each axis.
      descriptor_noise: length of the noise added to a unit descriptor.
    """
    rng = np.random.default_rng([seed, num_features, dim])
    num_true = 0 if kind == "none" else round(true_fraction * num_features)
    transform = random_transform(rng, kind)
    query_xy, database_xy = _uniform(rng, num_features), _uniform(rng, num_features)
    query_descriptors = _descriptors(rng, num_features, dim)
    descriptors = _descriptors(rng, num_features, dim)
    query_scales = rng.choice(_SCALES, num_features)
    scales = rng.choice(_SCALES, num_features)
    truth = np.stack(
        [rng.permutation(num_features)[:num_true], rng.permutation(num_features)[:num_true]], 1
    )
    if num_true:
        q, d = truth.T
        query_xy[q] = _seen_by_both(rng, transform, num_true)
        noise = rng.normal(0, location_noise_px, (num_true, 2))
        database_xy[d] = project(transform, query_xy[q]) + noise
        noise = _unit(rng.standard_normal((num_true, dim))) * descriptor_noise
        descriptors[d] = _unit(query_descriptors[q] + noise)
        scales[d] = _on_pyramid(query_scales[q] * _magnification(transform, query_xy[q]))
    query = LocalFeatures(query_xy[:, ::-1], query_descriptors, np.ones(num_features), query_scales)
    database = LocalFeatures(database_xy[:, ::-1], descriptors, np.ones(num_features), scales)
    return SyntheticPair(query, database, transform, truth[np.argsort(truth[:, 0])])


def random_transform(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Returns a transform [3, 3] about the image centre.

    Rotation within 40°, scale within 1.6, stretch within 1.5, shift within 15 %; a homography's
    denominator changes by 20 to 40 % from the centre to the side.
    """
    if kind == "none":
        return np.zeros((3, 3))
    angle, direction = rng.uniform(-0.7, 0.7), rng.uniform(0, np.pi)
    scale, stretch = np.exp(rng.uniform(-0.47, 0.47)), np.exp(rng.uniform(-0.4, 0.4) / 2)
    turn = _rotation(direction)
    linear = scale * _rotation(angle) @ turn @ np.diag([stretch, 1 / stretch]) @ turn.T
    centre = np.array([WIDTH / 2, HEIGHT / 2])
    transform = np.eye(3)
    transform[:2, :2] = linear
    if kind == "homography":
        strength = rng.uniform(0.2, 0.4) / (WIDTH / 2)
        facing = rng.uniform(0, 2 * np.pi)
        transform[2, :2] = strength * np.cos(facing), strength * np.sin(facing)
    shift = rng.uniform(-0.15, 0.15, 2) * (WIDTH, HEIGHT)
    return _translation(centre + shift) @ transform @ _translation(-centre)


def project(transform: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Returns points [N, 2], (x, y), taken over by a transform [3, 3]."""
    mapped = np.c_[xy, np.ones(len(xy))] @ transform.T
    return mapped[:, :2] / mapped[:, 2:]


def _seen_by_both(rng: np.random.Generator, transform: np.ndarray, num: int) -> np.ndarray:
    found = np.zeros((0, 2))
    while len(found) < num:
        xy = _uniform(rng, 4 * num)
        mapped = project(transform, xy)
        inside = ((mapped >= 0) & (mapped < (WIDTH, HEIGHT))).all(axis=1)
        found = np.concatenate([found, xy[inside]])
    return found[:num]


def _magnification(transform: np.ndarray, xy: np.ndarray) -> np.ndarray:
    below = np.c_[xy, np.ones(len(xy))] @ transform[2]
    return np.sqrt(abs(np.linalg.det(transform)) / abs(below) ** 3)


def _on_pyramid(scales: np.ndarray) -> np.ndarray:
    return 2.0 ** (np.round(2 * np.log2(scales)) / 2)


def _uniform(rng: np.random.Generator, num: int) -> np.ndarray:
    return rng.uniform(0, (WIDTH, HEIGHT), (num, 2))


def _descriptors(rng: np.random.Generator, num: int, dim: int) -> np.ndarray:
    return _unit(rng.standard_normal((num, dim)) / np.sqrt(np.arange(1, dim + 1)))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _translation(shift: np.ndarray) -> np.ndarray:
    return np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]], float)
