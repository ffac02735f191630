from __future__ import annotations

import numpy as np
import pytest

from delf_tf.serving import combination
from delf_tf.types import Ranking


def _index(similarity):
    """Returns a search over the columns of similarities [P, N], and the depths it was asked for."""
    depths = []

    def search(picture, depth):
        depths.append(depth)
        order = np.argsort(-similarity[picture], kind="stable")[:depth]
        ids = tuple(map(str, range(similarity.shape[1])))
        return Ranking(("query",), ids, order[None], similarity[picture, order][None])

    return search, depths


@pytest.mark.parametrize(("how", "combined"), [("mean", np.mean), ("max", np.max)])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_results_are_those_of_comparing_everything(how, combined, seed):
    random = np.random.RandomState(seed)
    # The pictures see little in common: the best of the mean lie deep in each one's results.
    similarity = random.rand(3, 500).astype(np.float32)
    search, depths = _index(similarity)
    found = combination.search_together(search, range(3), how, 10)
    expected = combined(similarity.astype(np.float64), axis=0)
    best = np.argsort(-expected)[:10]
    np.testing.assert_array_equal(found.indices[0], best)
    np.testing.assert_allclose(found.scores[0], expected[best], rtol=1e-6)
    assert (max(depths) > 10) == (how == "mean")


def test_one_picture_is_searched_once():
    search, depths = _index(np.random.RandomState(0).rand(1, 50).astype(np.float32))
    assert combination.search_together(search, [0], "mean", 5).indices.shape == (1, 5)
    assert depths == [5]


def test_pictures_that_find_nothing():
    nothing = Ranking(("query",), ("a", "b"), np.array([[-1, -1]]), np.zeros((1, 2)))
    one = Ranking(("query",), ("a", "b"), np.array([[1, -1]]), np.array([[0.5, 0.0]]))
    by_picture = {0: nothing, 1: one}
    for how, score in (("mean", 0.25), ("max", 0.5)):
        found = combination.search_together(lambda at, _: by_picture[at], [0, 1], how, 2)
        assert found.indices.tolist() == [[1]]
        assert found.scores.tolist() == [[score]]
        found = combination.search_together(lambda at, _: nothing, [0, 1], how, 2)
        assert found.indices.shape == (1, 0)


def test_orders_are_put_together():
    ids = tuple("abcd")

    def ranking(*rows):
        return Ranking(("query",), ids, np.array([rows]), np.array([rows]) / 10)

    first = ranking(0, 1, 2, 3)
    orders = [ranking(3, 1, 0, 2), ranking(2, 1, 0, 3)]
    # Places of 0, 1, 2, 3: 2 1 3 0 and 2 1 0 3; reciprocals 2/6, 3/6, 5/8 and 5/8 in the mean.
    mean = combination.order_together(first, orders, "mean")
    assert mean.indices.tolist() == [[2, 3, 1, 0]]
    np.testing.assert_allclose(mean.scores, [[0.2, 0.3, 0.1, 0.0]])
    others = [ranking(1, 2, 3, 0), ranking(1, 3, 2, 0)]
    mean = combination.order_together(first, [*others, ranking(0, 1, 2, 3)], "mean")
    assert mean.indices.tolist() == [[1, 0, 2, 3]]
    best = combination.order_together(first, orders, "max")
    assert best.indices.tolist() == [[2, 3, 1, 0]]
