"""ELViS (ICLR 2026) in NumPy: votes of the features by their best match in an optimal transport.

`delf_tf.models.similarity.elvis.Elvis` is the layer that is trained; both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from delf_tf.checks import require
from delf_tf.retrieval.second_stage import layers
from delf_tf.retrieval.second_stage.transport import largest_shares

_MAX_ITERATIONS = 1000


class ElvisSimilarity(layers.Layers):
    """See `learned.LearnedSimilarity`, which reads, chooses and keeps what this compares."""

    max_num_features = 600
    # Similarities reach hundreds.
    gamma = 0.01
    num_bits = 0

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        *,
        descriptor_dim: int,
        num_iterations: int,
        temperature: float,
        **sizes: int,
    ):
        """Takes the arrays of `shapes` and the layer's arguments."""
        del sizes
        super().__init__(arrays, descriptor_dim)
        self._num_iterations, self._temperature = num_iterations, np.float32(temperature)

    @staticmethod
    def shapes(
        *, descriptor_dim: int, width: int, num_iterations: int, temperature: float
    ) -> layers.Shapes:
        """Returns the shapes of the arrays by name.

        Raises:
          InputError: an argument out of range.
        """
        layers.check_counts(descriptor_dim=descriptor_dim, width=width)
        layers.check_counts(most=_MAX_ITERATIONS, num_iterations=num_iterations)
        require(temperature > 0, "It must be positive.", temperature=temperature)
        dense = {"projection": (descriptor_dim, width), "dustbin_hidden": (width, width)}
        dense |= {"dustbin": (width, 1), "vote_hidden": (1, 16), "vote": (16, 1)}
        dense |= {"logit_hidden": (1, 64), "logit_out": (64, 1)}
        norms = {"projection_norm": width, "vote_norm": 16}
        return {"corner": (), **layers.shapes_of(dense, norms)}

    def encode(self, descriptors: np.ndarray) -> np.ndarray:
        """Returns float32 [N + 1, W + 2]: projections and their dustbin similarities, the dustbin.

        The product with another image's, its last two columns exchanged, is all cosines, dustbins
        and corner included.
        """
        projected = layers.unit(self.norm("projection_norm", self.dense("projection", descriptors)))
        hidden = layers.gelu(self.dense("dustbin_hidden", projected))
        num, width = projected.shape
        encoded = np.zeros((num + 1, width + 2), np.float32)
        encoded[:-1, :width] = projected
        encoded[:-1, width:-1] = np.tanh(self.dense("dustbin", hidden))
        encoded[-1, width:] = self.arrays["corner"].item() / 2, 1
        return encoded

    def against(self, query: np.ndarray) -> Callable[[np.ndarray], float]:
        """Returns what gives the similarity of a query to an image, both encoded."""
        columns = [*range(query.shape[1] - 2), -1, -2]
        asked = query[:, columns] / self._temperature

        def similarity(database: np.ndarray) -> float:
            kernel = asked @ database.T
            np.exp(kernel, out=kernel)
            votes = self._votes(largest_shares(kernel, self._num_iterations))
            return float(votes.sum(dtype=np.float64))

        return similarity

    def logit(self, similarity: np.ndarray) -> np.ndarray:
        """Returns float64 [C], the logit that training fitted to the similarities [C]."""
        hidden = layers.gelu(self.dense("logit_hidden", similarity[:, np.newaxis]))
        return self.dense("logit_out", hidden)[:, 0]

    def _votes(self, largest: np.ndarray) -> np.ndarray:
        hidden = self.norm("vote_norm", self.dense("vote_hidden", largest[:, np.newaxis]))
        return 1 / (1 + np.exp(-self.dense("vote", layers.gelu(hidden))))
