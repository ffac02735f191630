"""Tiny feature stores, made without a network."""

from __future__ import annotations

import numpy as np

from delf_tf.features.store import ImageFeatures, create, writer
from delf_tf.types import LocalFeatures

FINGERPRINT = "f" * 16
GLOBAL_DIM, LOCAL_DIM, NUM_LOCAL = 16, 8, 40


def unit(random, *shape):
    """Random vectors of L2 norm 1."""
    vectors = random.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def place_features(place, view, *, num_local=NUM_LOCAL):
    """Features of one of a place's views: near those of its other views, and shifted in the image.

    A negative place has features of its own in every view.
    """
    own = np.random.default_rng([7, place + 1000, view])
    of_place = np.random.default_rng([11, place + 1000, view if place < 0 else 0])
    vector = unit(of_place, GLOBAL_DIM) + 0.6 * unit(own, GLOBAL_DIM)
    descriptors = unit(of_place, num_local, LOCAL_DIM) + 0.1 * unit(own, num_local, LOCAL_DIM)
    locations = of_place.uniform(0, 500, (num_local, 2)) + own.uniform(-50, 50, 2)
    return ImageFeatures(
        vector / np.linalg.norm(vector),
        LocalFeatures(
            locations,
            descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True),
            np.ones(num_local),
            np.ones(num_local),
        ),
    )


def make_store(
    path,
    images,
    *,
    fingerprint=FINGERPRINT,
    with_global=True,
    with_local=True,
    global_dim=GLOBAL_DIM,
    local_dim=LOCAL_DIM,
):
    """Makes a store of {id: ImageFeatures} and returns its path."""
    create(
        path,
        list(images),
        fingerprint=fingerprint,
        block_size=5,
        global_dim=global_dim if with_global else None,
        local_dim=local_dim if with_local else None,
    )
    with writer(path) as opened:
        for block, ids in opened.pending():
            features = [
                ImageFeatures(
                    images[one].global_descriptor if with_global else None,
                    images[one].local if with_local else None,
                )
                for one in ids
            ]
            opened.write(block, ids, features, {})
    return path


def places(num_places, num_views, *, first_view=0):
    """Returns {"place_view": features} of some places."""
    return {
        f"{place}_{view}": place_features(place, view)
        for place in range(num_places)
        for view in range(first_view, first_view + num_views)
    }


def labels_file(path, ids):
    """Writes labels.csv for ids "place_view"; places below 0 are distractors."""
    lines = ["image,place"]
    for one in ids:
        place = one.rsplit("_", 1)[0]
        lines.append(f"{one},{'' if place.startswith('-') else place}")
    path.write_text("\n".join(lines) + "\n")
    return path
