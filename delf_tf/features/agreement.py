"""How near two stores' features are that engines or precisions made differently."""

from __future__ import annotations

import numpy as np

from delf_tf.checks import require
from delf_tf.features.store import FeatureStore

MIN_NUM_IMAGES = 4
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
    pairs = [[store.read(one).global_descriptor for one in shared] for store in (first, second)]
    require(
        all(vector is not None for vectors in pairs for vector in vectors),
        "Both stores must hold global descriptors.",
    )
    widths = [len(vectors[0]) for vectors in pairs]
    require(
        widths[0] == widths[1],
        "Both stores' global descriptors must have the same width.",
        widths=widths,
    )
    return np.sum(np.multiply(*pairs), axis=1)
