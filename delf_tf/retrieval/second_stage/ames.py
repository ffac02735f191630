"""AMES (ECCV 2024) in NumPy: a transformer over the features of both images.

`delf_tf.models.similarity.ames.Ames` is the layer that is trained; both give the same numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from delf_tf.checks import require
from delf_tf.retrieval.second_stage import layers

_MAX_LAYERS = 100


class AmesSimilarity(layers.Layers):
    """See `learned.LearnedSimilarity`, which reads, chooses and keeps what this compares.

    Attributes:
      num_bits: of a feature's code; 0: descriptors are taken as they are.
    """

    # Of 128 bits each: 1 kB an image.
    max_num_features = 64
    # Similarities are logits.
    gamma = 1.0

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        *,
        descriptor_dim: int,
        num_layers: int,
        num_heads: int,
        num_bits: int,
        **sizes: int,
    ):
        """Takes the arrays of `shapes` and the layer's arguments."""
        del sizes
        super().__init__(arrays, descriptor_dim)
        self._blocks = [f"block{number}." for number in range(1, num_layers + 1)]
        self._num_heads, self.num_bits = num_heads, num_bits

    @staticmethod
    def shapes(
        *,
        descriptor_dim: int,
        width: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        num_bits: int,
    ) -> layers.Shapes:
        """Returns the shapes of the arrays by name.

        Raises:
          InputError: an argument out of range.
        """
        layers.check_counts(descriptor_dim=descriptor_dim, width=width, hidden_dim=hidden_dim)
        layers.check_counts(most=_MAX_LAYERS, num_layers=num_layers, num_heads=num_heads)
        layers.check_counts(least=0, num_bits=num_bits)
        require(width % num_heads == 0, "num_heads must divide width.", num_heads=num_heads)
        dense = {"projection": (num_bits or descriptor_dim, width), "logit_out": (width, 1)}
        norms = {"projection_norm": width}
        for number in range(1, num_layers + 1):
            block = f"block{number}."
            for side in ("own", "other"):
                dense[f"{block}{side}_qkv"] = (width, 3 * width)
                dense[f"{block}{side}_out"] = (width, width)
                norms[f"{block}{side}_norm"] = width
            dense[f"{block}hidden"] = (width, hidden_dim)
            dense[f"{block}shrink"] = (hidden_dim, width)
            norms[f"{block}shrink_norm"] = width
        code = {"code.kernel": (descriptor_dim, num_bits)} if num_bits else {}
        return {"token": (width,), **code, **layers.shapes_of(dense, norms)}

    def encode(self, descriptors: np.ndarray) -> np.ndarray:
        """Returns float32 [N, W], the tokens of an image's features."""
        codes = self.codes(descriptors) if self.num_bits else layers.unit(descriptors)
        return self.norm("projection_norm", self.dense("projection", codes))

    def codes(self, descriptors: np.ndarray) -> np.ndarray:
        """Returns float32 [N, num_bits] of -1 and 1, a student's codes.

        Descriptors of that width whose components are all of one size are codes already.
        """
        sizes = np.abs(descriptors)
        if descriptors.shape[1] == self.num_bits and bool((sizes == sizes[:1, :1]).all()):
            return np.sign(descriptors)
        return np.sign(layers.unit(descriptors) @ self.arrays["code.kernel"])

    def against(self, query: np.ndarray) -> Callable[[np.ndarray], float]:
        """Returns what gives the similarity of a query to an image, both encoded."""
        return functools.partial(self._similarity, query)

    def logit(self, similarity: np.ndarray) -> np.ndarray:
        """Returns the similarities, which are logits."""
        return similarity

    def _similarity(self, query: np.ndarray, database: np.ndarray) -> float:
        tokens = np.concatenate([self.arrays["token"][np.newaxis], query, database])
        image = np.repeat([0, 1, 2], [1, len(query), len(database)])
        token, same = np.multiply.outer(image, image) == 0, np.equal.outer(image, image)
        own, other = (np.where(token | one, 0, -np.inf).astype("f4") for one in (same, ~same))
        for block in self._blocks:
            for side, added in (("own", own), ("other", other)):
                mixed = self._attend(self.dense(f"{block}{side}_qkv", tokens), added)
                tokens = tokens + self.dense(f"{block}{side}_out", mixed)
                tokens = self.norm(f"{block}{side}_norm", tokens)
            hidden = np.maximum(self.dense(f"{block}hidden", tokens), 0)
            tokens = tokens + self.dense(f"{block}shrink", hidden)
            tokens = self.norm(f"{block}shrink_norm", tokens)
        return float(self.dense("logit_out", tokens[0])[0])

    def _attend(self, qkv: np.ndarray, added: np.ndarray) -> np.ndarray:
        """Returns [T, W], each token's mixture of values, of [T, 3 W]; `added` to the logits."""
        num = len(qkv)
        heads = qkv.reshape(num, 3, self._num_heads, -1).transpose(1, 2, 0, 3)
        query, key, value = heads
        logits = query @ key.swapaxes(1, 2) / np.sqrt(np.float32(query.shape[-1])) + added
        logits -= logits.max(axis=-1, keepdims=True)
        shares = np.exp(logits, out=logits)
        shares /= shares.sum(axis=-1, keepdims=True)
        return (shares @ value).swapaxes(0, 1).reshape(num, -1)
