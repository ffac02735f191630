"""The interface of an engine: a network's raw outputs for images at one scale."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np

# Which tensor of each output holds descriptors; see RetrievalModel.call.
DESCRIPTORS = {"global": "global", "local": "features", "superfeatures": "superfeatures"}


@dataclasses.dataclass(frozen=True)
class NetworkFacts:
    """What is known of a network without running it; fields as RetrievalModel's attributes.

    Attributes:
      options: name and arguments of the model.
      output_names_available: of DESCRIPTORS.
      tensors: what each output consists of; "locations" among those of "local" are (y, x) pixels of
        the images that the network sees, where features lie elsewhere than at their cells' centres.
      global_dim: width of the global descriptor, or None.
      local_dim: width of local descriptors, or None.
      local_output: which output holds the local features.
      local_stride: distance of neighbouring local features, input pixels.
      local_offsets: centre of local feature 0 along an axis, input pixels, by the remainder of the
        axis' length by settings.OFFSET_PERIOD.
    """

    options: dict[str, Any]
    output_names_available: tuple[str, ...]
    tensors: dict[str, tuple[str, ...]]
    global_dim: int | None
    local_dim: int | None
    local_output: str
    local_stride: float
    local_offsets: tuple[float, ...]


class Network(Protocol):
    """A network of an engine."""

    facts: NetworkFacts

    def __call__(
        self, images: np.ndarray, level_size: tuple[int, int], outputs: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        """Runs the network on images of one size, resized.

        Args:
          images: uint8 [B, H, W, 3], RGB.
          level_size: (height, width) that the network sees, see pyramid.scaled_size.
          outputs: of DESCRIPTORS; what is not asked for is not computed.

        Returns:
          float32 arrays by name of tensor, as RetrievalModel.call gives them.
        """
        ...
