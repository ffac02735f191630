"""A made-up collection of any size whose truth is known, made a block at a time.

Image n shows landmark n mod `num_landmarks`: a landmark's views are spread evenly, no two of them
near each other on disk. A view's global descriptor is the landmark's plus noise; half of its local
features are the landmark's, turned, scaled and shifted, and the rest are clutter. As in networks'
descriptors, the spectrum falls as 1 / sqrt(component).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from delf_tf.features.blocks import ImageFeatures
from delf_tf.features.sources import Source
from delf_tf.types import LocalFeatures

# Images made at once: each shows another landmark.
GROUP = 64
_VIEWS_PER_LANDMARK = 50
_SIZE = np.array((768.0, 1024.0))
_SCALES = 2.0 ** (np.arange(5) / 2)
_TRUE_FRACTION = 0.5
_GLOBAL_NOISE, _LOCAL_NOISE, _NOISE_PX = 0.8, 0.35, 3.0


@dataclasses.dataclass(frozen=True)
class Collection:
    """What there is of each image, and how many there are.

    Attributes:
      num_images: N.
      num_features: local features an image.
      global_dim: width of global descriptors.
      local_dim: width of local descriptors.
      seed: of everything random.
    """

    num_images: int
    num_features: int = 50
    global_dim: int = 512
    local_dim: int = 64
    seed: int = 0

    @property
    def num_landmarks(self) -> int:
        """About one for 50 images, a multiple of GROUP."""
        return GROUP * max(1, round(self.num_images / (_VIEWS_PER_LANDMARK * GROUP)))

    @property
    def first_query(self) -> int:
        """The number of the first view that is not in the collection, of landmark 0."""
        return -(-self.num_images // self.num_landmarks) * self.num_landmarks

    def views(self, first: int) -> list[ImageFeatures]:
        """Returns the features of the images `first`, a multiple of GROUP, and the following."""
        landmarks = np.random.default_rng((self.seed, first % self.num_landmarks))
        views = np.random.default_rng((self.seed, first, 1))
        vectors = self._descriptors(landmarks, (GROUP, self.global_dim))
        vectors = _unit(vectors + _GLOBAL_NOISE * self._descriptors(views, vectors.shape))
        locations, descriptors, scales = self._local(landmarks, views)
        scores = np.sort(views.random((GROUP, self.num_features), np.float32))[:, ::-1]
        rows = zip(vectors, locations, descriptors, scores, scales)
        return [ImageFeatures(vector, LocalFeatures(*local)) for vector, *local in rows]

    def _local(
        self, landmarks: np.random.Generator, views: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the locations [GROUP, N, 2], descriptors [GROUP, N, D] and scales [GROUP, N]."""
        num, num_true = self.num_features, round(_TRUE_FRACTION * self.num_features)
        true = np.s_[:, :num_true]
        shape = (GROUP, num, self.local_dim)
        base = self._descriptors(landmarks, (GROUP, num_true, self.local_dim))
        base_places = _SIZE * landmarks.random((GROUP, num_true, 2))
        base_scales = landmarks.choice(_SCALES, (GROUP, num_true))
        descriptors, scales = self._descriptors(views, shape), views.choice(_SCALES, shape[:2])
        places = _SIZE * views.random((GROUP, num, 2))
        turn, zoom = views.uniform(-0.5, 0.5, GROUP), views.choice(_SCALES[:3], GROUP) / _SCALES[1]
        cos, sin = zoom * np.cos(turn), zoom * np.sin(turn)
        linear = np.stack([cos, -sin, sin, cos], -1).reshape(GROUP, 2, 2)
        shift = _SIZE * (0.5 + views.uniform(-0.15, 0.15, (GROUP, 1, 2)))
        noise = views.normal(0, _NOISE_PX, base_places.shape)
        places[true] = np.einsum("gij,gnj->gni", linear, base_places - _SIZE / 2) + shift + noise
        descriptors[true] = _unit(base + _LOCAL_NOISE * descriptors[true])
        scales[true] = base_scales * zoom[:, None]
        return places, descriptors, scales

    def _descriptors(self, random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        spectrum = np.arange(1, shape[-1] + 1, dtype=np.float32) ** -0.5
        return _unit(spectrum * (random.random(shape, np.float32) - np.float32(0.5)))


def names(first: int, stop: int) -> list[str]:
    """Returns the ids of the images first..stop - 1."""
    return [f"{number:08d}.jpg" for number in range(first, stop)]


def source(name: str) -> Source:
    """Returns what the store is to know of an image's file, as extraction would tell it."""
    return Source(100_000, f"{int(name[:8]):032x}")


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
