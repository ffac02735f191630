"""ELViS's learned similarity of local features (ICLR 2026), in NumPy: it starts without TensorFlow.

`delf_tf.models.similarity.elvis.Elvis` is the layer that is trained; both give the same numbers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence

import numpy as np

from delf_tf import npz, threads
from delf_tf.artifacts import StrPath, file_sha256
from delf_tf.checks import as_array, invalid, require
from delf_tf.types import LocalFeatures

_MAX_ITERATIONS = 1000
_CACHED_IMAGES = 512
_HINT = "Make the file with `delf_tf train_similarity`."
_MUST = "The weights must be those of an ELViS."
# Shapes of the kernels, by layer; "D" and "W" are the file's.
_KERNELS: dict[str, tuple[str | int, str | int]] = {
    "projection": ("D", "W"),
    "dustbin_hidden": ("W", "W"),
    "dustbin": ("W", 1),
    "vote_hidden": (1, 16),
    "vote": (16, 1),
    "logit_hidden": (1, 64),
    "logit_out": (64, 1),
}
_NORMS: dict[str, str | int] = {"projection_norm": "W", "vote_norm": 16}


class LearnedSimilarity:
    """Compares sets of local features by a trained ELViS.

    Attributes:
      fingerprint: of the weights.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        max_num_features: int = 600,
        global_share: float = 0.5,
        gamma: float = 0.01,
    ):
        """Reads weights.

        Args:
          path: of a weights file (.npz) of `delf_tf train_similarity`.
          max_num_features: of an image, those with the largest scores.
          global_share: λ of `blend`, 0 to 1.
          gamma: γ of `blend`, at least 0; small, as similarities reach hundreds.

        Raises:
          InputError: no such file, or one of another network.
        """
        require(max_num_features >= 1, "It must be positive.", max_num_features=max_num_features)
        require(0 <= global_share <= 1, "It must be 0 to 1.", global_share=global_share)
        require(0 <= gamma < np.inf, "It must be at least 0 and finite.", gamma=gamma)
        self._global_share, self._gamma = global_share, gamma
        self.fingerprint = f"{file_sha256(path)} {max_num_features}"
        self._max_num_features = max_num_features
        self._weights, self._num_iterations, temperature = _read(path)
        self._temperature = np.float32(temperature)
        # An image re-appears in many queries' heads.
        self._encode = functools.lru_cache(_CACHED_IMAGES)(self._encode_features)

    def compare(
        self,
        query: LocalFeatures,
        database: Sequence[LocalFeatures],
        *,
        num_threads: int | None = None,
    ) -> np.ndarray:
        """Returns float64 [C], the similarities of a query's features to C images'.

        A similarity is between 0 and the number of features of both images.

        Args:
          query: of width D, that of the weights.
          database: C of them, likewise.
          num_threads: None takes every core.

        Raises:
          InputError: features of another width.
        """
        asked = self._encode(query)
        columns = [*range(asked.shape[1] - 2), -1, -2]
        asked = asked[:, columns] / self._temperature
        num_threads = threads.check_num_threads(num_threads)
        found = threads.run_all(
            lambda one: self._similarity(asked, self._encode(one)), database, num_threads
        )
        return np.array(found, np.float64)

    def blend(self, first_stage: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        """Returns float64 [C], λ · first stage's score + (1 − λ) · sigmoid(γ · similarity)."""
        voted = 1 / (1 + np.exp(-self._gamma * np.asarray(similarity, np.float64)))
        first_stage = np.asarray(first_stage, np.float64)
        return self._global_share * first_stage + (1 - self._global_share) * voted

    def logit(self, similarity: np.ndarray) -> np.ndarray:
        """Returns float64 [C], the logit that training fitted to the similarities [C]."""
        column = np.asarray(similarity, np.float64)[:, np.newaxis]
        return self._dense("logit_out", _gelu(self._dense("logit_hidden", column)))[:, 0]

    def _encode_features(self, features: LocalFeatures) -> np.ndarray:
        """Returns float32 [N + 1, W + 2]: projections and their dustbin similarities, the dustbin.

        The product with another image's, its last two columns exchanged, is all cosines, dustbins
        and corner included.
        """
        order = np.argsort(-features.scores, kind="stable")[: self._max_num_features]
        dim = self._weights["projection.kernel"].shape[0]
        descriptors = np.asarray(features.descriptors, np.float32)[order]
        must = "Local features must have the width that the similarity was trained on."
        require(not len(order) or descriptors.shape[1] == dim, must, width=descriptors.shape[1:])
        projected = self._norm(
            "projection_norm", self._dense("projection", descriptors.reshape(-1, dim))
        )
        projected /= np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-6)
        hidden = _gelu(self._dense("dustbin_hidden", projected))
        dustbin = np.tanh(self._dense("dustbin", hidden))
        num, width = projected.shape
        encoded = np.zeros((num + 1, width + 2), np.float32)
        encoded[:-1, :width], encoded[:-1, width:-1] = projected, dustbin
        encoded[-1, width:] = self._weights["corner"].item() / 2, 1
        return encoded

    def _similarity(self, query: np.ndarray, database: np.ndarray) -> float:
        num_query, num_database = len(query) - 1, len(database) - 1
        if not num_query + num_database:
            return 0.0
        kernel = query @ database.T
        np.exp(kernel, out=kernel)
        give = np.ones(num_query + 1, np.float32)
        take = np.ones(num_database + 1, np.float32)
        # A dustbin may take all of the other image's features.
        give[-1], take[-1] = num_database, num_query
        column = np.ones(num_database + 1, np.float32)
        for _ in range(self._num_iterations):
            row = give / (kernel @ column)
            column = take / (row @ kernel)
        kernel *= column
        given = kernel[:-1, :-1].max(axis=1, initial=0) * row[:-1]
        kernel *= row[:, np.newaxis]
        taken = kernel[:-1, :-1].max(axis=0, initial=0)
        return float(self._votes(np.concatenate([given, taken])).sum(dtype=np.float64))

    def _votes(self, largest: np.ndarray) -> np.ndarray:
        hidden = self._norm("vote_norm", self._dense("vote_hidden", largest[:, np.newaxis]))
        return 1 / (1 + np.exp(-self._dense("vote", _gelu(hidden))))

    def _dense(self, layer: str, x: np.ndarray) -> np.ndarray:
        return x @ self._weights[f"{layer}.kernel"] + self._weights[f"{layer}.bias"]

    def _norm(self, layer: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt(variance + 1e-5)
        return scaled * self._weights[f"{layer}.gamma"] + self._weights[f"{layer}.beta"]


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf  # noqa: PLC0415 - slow to import

    return x * (1 + erf(x * np.float32(np.sqrt(0.5)))) / 2


def _read(path: StrPath) -> tuple[dict[str, np.ndarray], int, float]:
    """Returns the arrays by name, the number of iterations and the temperature."""
    with npz.NpzReader(path, hint=_HINT) as reader:
        try:
            options = json.loads(reader.text("options.json"))
            known = options["name"] == "elvis"
            sizes = {name: options["kwargs"][name] for name in ("descriptor_dim", "width")}
            iterations = int(options["kwargs"]["num_iterations"])
            temperature = float(options["kwargs"]["temperature"])
        except (ValueError, KeyError, TypeError, RecursionError):
            known = False
        if not known or not (1 <= iterations <= _MAX_ITERATIONS and temperature > 0):
            raise invalid(_MUST, hint=_HINT, path=path)
        letters: dict[str | int, int] = {"D": sizes["descriptor_dim"], "W": sizes["width"]}
        shapes: dict[str, tuple[str | int, ...]] = {"corner": ()}
        for name, shape in _KERNELS.items():
            shapes |= {f"{name}.kernel": shape, f"{name}.bias": shape[1:]}
        for name, size in _NORMS.items():
            shapes |= {f"{name}.gamma": (size,), f"{name}.beta": (size,)}
        require(shapes.keys() <= set(reader.names), _MUST, hint=_HINT, path=path)
        arrays = {
            name: as_array(name, reader.array(name), tuple(letters.get(one, one) for one in shape))
            for name, shape in shapes.items()
        }
    return arrays, iterations, temperature
