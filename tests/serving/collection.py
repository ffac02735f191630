"""A served collection of four painted pictures, with a network that is none: mean colours."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from delf_tf import matching
from delf_tf.features.blocks import ImageFeatures
from delf_tf.retrieval.vectors.index import create_index
from delf_tf.serving.collection import Collection
from delf_tf.serving.service import RetrievalService
from delf_tf.types import GlobalDescriptors, ImageRef, LocalFeatures, Ranking

SIZE = (60, 80)


def painting(seed):
    """A picture of 20-pixel squares, uint8 [60, 80, 3]."""
    squares = np.random.RandomState(seed).randint(0, 256, (3, 4, 3)).astype(np.uint8)
    return squares.repeat(20, axis=0).repeat(20, axis=1)


def png(image):
    """Returns an image as a file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def extract(image):
    """Mean colour as the global descriptor; a local feature in the middle of each square."""
    mean = image.reshape(-1, 3).mean(axis=0) + 1.0
    ys, xs = np.arange(10, image.shape[0], 20), np.arange(10, image.shape[1], 20)
    grid = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 2)
    colours = image[grid[:, 0], grid[:, 1]].astype(np.float32) + 1.0
    count = len(grid)
    local = LocalFeatures(
        grid,
        colours / np.linalg.norm(colours, axis=1, keepdims=True),
        np.ones(count),
        np.ones(count),
    )
    return ImageFeatures((mean / np.linalg.norm(mean)).astype(np.float32), local)


def make(folder, *, two_stages=True, num_candidates=2, **options):
    """Returns a service over paintings 0 to 3, written into `folder`."""
    refs, features = [], {}
    for seed in range(4):
        path = folder / f"{seed}.png"
        path.write_bytes(png(painting(seed)))
        refs.append(ImageRef(path.name, path))
        features[path.name] = extract(painting(seed))
    index = create_index("exact")
    vectors = np.stack([one.global_descriptor for one in features.values()])
    index.add(GlobalDescriptors(tuple(features), vectors))

    def search(query, *, leave_out, max_results):
        asked = GlobalDescriptors(("query",), query.global_descriptor[None])
        num = min(max_results, 4 - len(leave_out))
        return index.search(asked, num, exclude_self={"query": leave_out})

    def rerank(ranking, local):
        rows = [row for row in ranking.indices[0] if row >= 0][:num_candidates]
        found = {
            row: matching.verify(local, features[ranking.database_ids[row]].local) for row in rows
        }
        order = sorted(range(len(rows)), key=lambda at: -found[rows[at]].num_inliers)
        indices, scores = ranking.indices.copy(), ranking.scores.copy()
        indices[0, : len(rows)] = ranking.indices[0, order]
        scores[0, : len(rows)] = ranking.scores[0, order]
        return Ranking(ranking.query_ids, ranking.database_ids, indices, scores), found

    def keep(ranking, local):
        return ranking, rerank(ranking, local)[1]

    methods = {"verification": rerank, "none": keep} if two_stages else {}
    made = Collection(refs, extract, search, methods, lambda one: features[one].local)
    return RetrievalService(made, **options)
