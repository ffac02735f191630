"""Learned similarities of local features, in NumPy: they start without TensorFlow."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence

import numpy as np

from delf_tf import npz, threads
from delf_tf.artifacts import StrPath, file_sha256
from delf_tf.checks import as_array, invalid, require
from delf_tf.retrieval.second_stage.ames import AmesSimilarity
from delf_tf.retrieval.second_stage.elvis import ElvisSimilarity
from delf_tf.types import LocalFeatures

_CACHED_IMAGES = 512
_HINT = "Make the file with `delf_tf train --store`."
_MUST = "The weights must be those of a learned similarity."
# Names in weights files; `delf_tf.models.similarity.create` has the layers that are trained.
_NETWORKS: dict[str, type[ElvisSimilarity | AmesSimilarity]] = {
    "elvis": ElvisSimilarity,
    "ames": AmesSimilarity,
}


class LearnedSimilarity:
    """Compares sets of local features by a trained ELViS or AMES.

    Attributes:
      fingerprint: of the weights and the number of features.
      num_bits: of a feature's code, if the network is a student of AMES; else 0.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        max_num_features: int | None = None,
        global_share: float = 0.5,
        gamma: float | None = None,
    ):
        """Reads weights.

        Args:
          path: of a weights file (.npz) of `delf_tf train --store`.
          max_num_features: of an image, those with the largest scores; None: 600 for ELViS, 64 for
            AMES.
          global_share: λ of `blend`, 0 to 1.
          gamma: γ of `blend`, at least 0; None: 0.01 for ELViS, 1 for AMES.

        Raises:
          InputError: no such file, or one of another network.
        """
        self._network = _read(path)
        num = self._network.max_num_features if max_num_features is None else max_num_features
        gamma = self._network.gamma if gamma is None else gamma
        require(num >= 1, "It must be positive.", max_num_features=num)
        require(0 <= global_share <= 1, "It must be 0 to 1.", global_share=global_share)
        require(0 <= gamma < np.inf, "It must be at least 0 and finite.", gamma=gamma)
        self._global_share, self._gamma = global_share, gamma
        self.fingerprint = f"{file_sha256(path)} {num}"
        self.num_bits = self._network.num_bits
        self._max_num_features = num
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

        ELViS's is between 0 and the number of features of both images, AMES's is a logit.

        Args:
          query: of width D, that of the weights.
          database: C of them, likewise.
          num_threads: None takes every core.

        Raises:
          InputError: features of another width.
        """
        num_threads = threads.check_num_threads(num_threads)
        with threads.one_blas_thread:
            similarity = self._network.against(self._encode(query))
            found = threads.run_all(
                lambda one: similarity(self._encode(one)), database, num_threads
            )
        return np.array(found, np.float64)

    def blend(self, first_stage: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        """Returns float64 [C], λ · first stage's score + (1 − λ) · sigmoid(γ · similarity)."""
        with np.errstate(over="ignore"):
            voted = 1 / (1 + np.exp(-self._gamma * np.asarray(similarity, np.float64)))
        first_stage = np.asarray(first_stage, np.float64)
        return self._global_share * first_stage + (1 - self._global_share) * voted

    def logit(self, similarity: np.ndarray) -> np.ndarray:
        """Returns float64 [C], the logit that training fitted to the similarities [C]."""
        return self._network.logit(np.asarray(similarity, np.float64))

    def codes(self, features: LocalFeatures) -> LocalFeatures:
        """Returns the strongest features, their descriptors the codes: all that is compared.

        Args:
          features: of width D, that of the weights.

        Raises:
          InputError: features of another width; weights that are no student's.
        """
        if not isinstance(self._network, AmesSimilarity) or not self.num_bits:
            raise invalid("Codes must be made by a student of AMES.", num_bits=self.num_bits)
        kept = self._strongest(features)
        codes = self._network.codes(kept.descriptors)
        return dataclasses.replace(kept, descriptors=codes * np.float32(self.num_bits**-0.5))

    def _encode_features(self, features: LocalFeatures) -> np.ndarray:
        return self._network.encode(self._strongest(features).descriptors)

    def _strongest(self, features: LocalFeatures) -> LocalFeatures:
        dim = self._network.descriptor_dim
        must = "Local features must have the width that the similarity was trained on, or be codes."
        if not len(features):
            return LocalFeatures.empty(dim)
        require(features.dim in (dim, self.num_bits), must, width=features.dim)
        kept = features.take(np.argsort(-features.scores, kind="stable")[: self._max_num_features])
        return dataclasses.replace(kept, descriptors=kept.descriptors.astype(np.float32))


def _read(path: StrPath) -> ElvisSimilarity | AmesSimilarity:
    with npz.NpzReader(path, hint=_HINT) as reader:
        try:
            options = json.loads(reader.text("options.json"))
            kind, arguments = _NETWORKS[options["name"]], options["kwargs"]
            shapes = kind.shapes(**arguments)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise invalid(_MUST, hint=_HINT, path=path) from error
        require(shapes.keys() <= set(reader.names), _MUST, hint=_HINT, path=path)
        arrays = {name: as_array(name, reader.array(name), one) for name, one in shapes.items()}
    return kind(arrays, **arguments)
