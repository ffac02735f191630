"""How many of the selected local features have a true match, by the geometry of generated views."""

from __future__ import annotations

import numpy as np

from delf_tf import synthetic
from delf_tf.extraction.engine import extract_image
from delf_tf.matching import nearest
from tests.synthetic import view_pairs

# Pixels; neighbouring features are 16 apart.
SIDE, RADIUS = 240, 16.0


def shares(extractor, landmarks=range(60, 84), num_selected=60, num_draws=10):
    """Returns the shares of true inliers among the best features by score, and among random ones.

    A query feature counts if its nearest in the other view lies within RADIUS of where the
    geometry puts it. Both images' features are selected in the same way.

    Args:
      extractor: of local features; gives all that an image has.
      landmarks: seeds; views 0 and 1 of each are matched.
      num_selected: features kept of an image.
      num_draws: random selections that are averaged.
    """
    rng = np.random.default_rng(0)
    best, chance = [], []
    for landmark in landmarks:
        views = [synthetic.render_view(landmark, view, (SIDE, SIDE)) for view in (0, 1)]
        truth = [view_pairs.view_geometry(landmark, view, (SIDE, SIDE)) for view in (0, 1)]
        features = [extract_image(extractor, view).local for view in views]
        rows = [np.argsort(-one.scores, kind="stable")[:num_selected] for one in features]
        best.append(_share(features, truth, rows))
        for _ in range(num_draws):
            rows = [rng.permutation(len(one.scores))[:num_selected] for one in features]
            chance.append(_share(features, truth, rows))
    return float(np.mean(best)), float(np.mean(chance))


def _share(features, truth, rows):
    (query, database), (asked, kept) = features, rows
    pairs = nearest.match(query.descriptors[asked], database.descriptors[kept], mutual=False)
    places, visible = view_pairs.correspond(*truth, query.locations[asked[pairs[:, 0]]])
    distance = np.linalg.norm(database.locations[kept[pairs[:, 1]]] - places, axis=1)
    return np.sum(visible & (distance <= RADIUS)) / len(asked)
