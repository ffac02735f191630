"""Maps of what a network attends to, for people to look at; no descriptor depends on them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from delf_tf.checks import invalid
from delf_tf.models.retrieval_model import RetrievalModel


class NetworkMap(NamedTuple):
    """A map of one image.

    Attributes:
      title: what it shows.
      values: float32 [h, w], at least 0.
      offset: (y, x) pixels of the image at which the first cell is centred.
      stride: distance of neighbouring cells, pixels.
    """

    title: str
    values: np.ndarray
    offset: tuple[float, float]
    stride: float


def network_maps(
    model: RetrievalModel, image: np.ndarray, *, max_num_superfeatures: int = 6
) -> list[NetworkMap]:
    """Returns the maps that a network has to show for an image at scale 1.

    The attention of DELF and DELG, or the norm of a backbone's features; the attention of DOLG and
    the energy of the part of its local features that is orthogonal to the global one; the maps of
    the strongest super-features.

    Args:
      model: of delf_tf.create_model.
      image: uint8 [H, W, 3], RGB.
      max_num_superfeatures: most super-features shown.

    Raises:
      InputError: the network has no map to show.
    """
    batch = tf.cast(image[np.newaxis], tf.float32)
    if hasattr(model, "inspect_fusion"):
        named = {name: values[0] for name, values in model.inspect_fusion(batch).items()}
    elif "superfeatures" in model.output_names_available:
        named = _superfeatures(model(batch, training=False), max_num_superfeatures)
    elif "local" in model.output_names_available:
        title = "attention" if hasattr(model, "attention") else "norm of local features"
        named = {title: model(batch, training=False, outputs=("local",))["scores"][0]}
    else:
        raise invalid(
            "The model must have local features, super-features or a fusion to show.",
            model=model.options["name"],
        )
    height, width = image.shape[:2]
    offset = (model.local_offset(height), model.local_offset(width))
    return [
        NetworkMap(title, tf.cast(values, tf.float32).numpy(), offset, float(model.local_stride))
        for title, values in named.items()
    ]


def _superfeatures(outputs: dict[str, tf.Tensor], limit: int) -> dict[str, tf.Tensor]:
    strengths = outputs["strengths"][0].numpy()
    strongest = np.argsort(-strengths, kind="stable")[:limit]
    return {
        f"super-feature {index}, strength {strengths[index]:.3g}": outputs["attention"][0, index]
        for index in strongest
    }
