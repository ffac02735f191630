"""Measures how similar features are that different engines or precisions made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from absl import logging

from delf_tf.checks import require
from delf_tf.features.store import FeatureStore

MIN_NUM_IMAGES = 4
MIN_MEDIAN_COSINE = 0.95
_MAX_NUM_IMAGES = 200


def measure_cosines(first: FeatureStore, second: FeatureStore) -> np.ndarray:
    """Returns the cosines [N] of the global descriptors of images that both stores hold.

    Args:
      first: a store with global descriptors.
      second: likewise; of equal widths.

    Raises:
      InputError: stores without global descriptors, of other widths, or of other images.
    """
    others = set(second.ids())
    shared = [one for one in first.ids() if one in others][:_MAX_NUM_IMAGES]
    require(
        len(shared) >= MIN_NUM_IMAGES,
        f"Both stores must hold {MIN_NUM_IMAGES} or more of the same images.",
        hint="Extract some of the database's images with the queries' settings.",
        num_shared=len(shared),
    )
    return cosines(
        [(first.read(one).global_descriptor, second.read(one).global_descriptor) for one in shared]
    )


def cosines(pairs: Sequence[tuple[np.ndarray | None, np.ndarray | None]]) -> np.ndarray:
    """Returns the cosines [N] of pairs of L2-normalised global descriptors [D].

    Raises:
      InputError: descriptors that are not there, or of other widths.
    """
    there = all(vector is not None for pair in pairs for vector in pair)
    require(there and bool(pairs), "Features to be mixed must hold global descriptors.")
    widths = sorted({len(vector) for pair in pairs for vector in pair if vector is not None})
    require(
        len(widths) == 1, "Global descriptors to be mixed must have the same width.", widths=widths
    )
    return np.array([np.dot(*pair) for pair in pairs])  # type: ignore[arg-type]


def require_near(cosines: np.ndarray) -> None:
    """Requires the median of measured cosines [N] to be at least MIN_MEDIAN_COSINE, and logs it."""
    median, least = float(np.median(cosines)), float(np.min(cosines))
    logging.info(
        "Features made differently: median cosine %.4f, least %.4f, of %d images.",
        median,
        least,
        len(cosines),
    )
    require(
        median >= MIN_MEDIAN_COSINE,
        f"Features made differently must agree: median cosine {MIN_MEDIAN_COSINE} or more.",
        hint="Extract queries and database with the same settings.",
        median_cosine=round(median, 4),
    )
