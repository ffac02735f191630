"""Several pictures as one query: the rankings of each to one of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from delf_tf.retrieval.ordering import descending
from delf_tf.types import Ranking

# Beyond so many results of a picture, an image counts with the last one's similarity.
_MAX_DEPTH = 10_000

# What several pictures' values [P, N] make of an image's.
COMBINED: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "max": np.max}

Picture = TypeVar("Picture")


def search_together(
    search: Callable[[Picture, int], Ranking],
    pictures: Sequence[Picture],
    how: str,
    num_results: int,
) -> Ranking:
    """Ranks by the mean or the largest of several pictures' similarities.

    The result is that of comparing every image with every picture, unless the mean's results lie
    beyond the first 10,000 of a picture.

    Args:
      search: gives the best results of a picture, at most as many as its second argument says.
      pictures: at least one.
      how: a row of COMBINED.
      num_results: results that are kept.
    """
    depth = num_results
    while True:
        rankings = [search(one, depth) for one in pictures]
        if len(rankings) == 1:
            return rankings[0]
        combined, is_exact = _combine(rankings, how)
        has_all = all(_num_found(one) < depth for one in rankings)
        if has_all or depth >= _MAX_DEPTH or is_exact[:num_results].all():
            indices, scores = combined.indices[:, :num_results], combined.scores[:, :num_results]
            return Ranking(combined.query_ids, combined.database_ids, indices, scores)
        depth *= 4


def order_together(first: Ranking, rankings: Sequence[Ranking], how: str) -> Ranking:
    """Orders one query's results by the mean or largest reciprocal of their places, from 1.

    An image that one picture puts first stays near the top whatever the others make of it. Equal
    ones keep their order.

    Args:
      first: of the first stage.
      rankings: the same results in other orders.
      how: a row of COMBINED.
    """
    if len(rankings) == 1:
        return rankings[0]
    rows = first.indices[0]
    places = []
    for one in rankings:
        by_row = np.argsort(one.indices[0])
        places.append(by_row[np.searchsorted(one.indices[0], rows, sorter=by_row)])
    order = descending(COMBINED[how](1 / (1 + np.array(places)), axis=0))
    return Ranking(
        first.query_ids, first.database_ids, first.indices[:, order], first.scores[:, order]
    )


def _num_found(ranking: Ranking) -> int:
    return int((ranking.indices[0] >= 0).sum())


def _combine(rankings: Sequence[Ranking], how: str) -> tuple[Ranking, np.ndarray]:
    """Returns all results in one order, and bool [K]: whether its similarity is the true one.

    No picture is more like an image that its results do not reach than it is like the last of them.
    """
    heads = [
        (one.indices[0, : _num_found(one)], one.scores[0, : _num_found(one)]) for one in rankings
    ]
    rows = np.unique(np.concatenate([indices for indices, _ in heads]))
    similarity = np.zeros((len(heads), len(rows)))
    seen = np.zeros(similarity.shape, bool)
    for at, (indices, scores) in enumerate(heads):
        places = np.searchsorted(rows, indices)
        similarity[at] = scores.min(initial=np.inf) if len(scores) else 0.0
        similarity[at, places], seen[at, places] = scores, True
    if how == "max":
        # The picture that an image is most like reaches it, if any of all pictures should.
        similarity[~seen] = -np.inf
    combined = COMBINED[how](similarity, axis=0)
    order = descending(combined)
    first = rankings[0]
    ranking = Ranking(first.query_ids, first.database_ids, rows[order][None], combined[order][None])
    is_exact = seen.any(axis=0) if how == "max" else seen.all(axis=0)
    return ranking, is_exact[order]
