"""Hand-made rankings."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.types import Ranking


@pytest.fixture
def make_ranking():
    """Returns a function from rows of database numbers to a Ranking of q0.. and d0.."""

    def make(rows, num_images=None, scores=None):
        rows = np.asarray(rows, np.int64)
        num_images = num_images or int(rows.max()) + 1
        if scores is None:
            scores = np.tile(np.linspace(1, 0.1, rows.shape[1]), (len(rows), 1))
        queries = [f"q{row}" for row in range(len(rows))]
        return Ranking(queries, [f"d{row}" for row in range(num_images)], rows, scores)

    return make
