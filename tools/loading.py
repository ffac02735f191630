"""`delf_tf.load_extractor`: an exported SavedModel or an experiment, as something to call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import logging

from delf_tf import config
from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.tools import experiment

if TYPE_CHECKING:
    from delf_tf.export.loading import SavedExtractor
    from delf_tf.extraction.extractor import Extractor


def load_extractor(
    path: StrPath,
    weights: StrPath | None = None,
    *,
    overrides: Sequence[str] = (),
    local_pca: StrPath | None = None,
) -> Extractor | SavedExtractor:
    """Makes an extractor: `extractor(image) -> features`.

    It takes one upright RGB image, uint8 [H, W, 3], at the size it is to be extracted at (limits of
    size belong to the reading of images), and gives, as far as the experiment asks for them,
    "global_descriptor" [D], "locations" [N, 2] in (y, x) pixels, "descriptors" [N, D], "scores" [N]
    and "scales" [N], float32 tensors; see extraction.extractor.Extractor.

    Args:
      path: a folder that `delf_tf export` wrote, an experiment's .textproto, or the name of a
        shipped config.
      weights: file or published name, instead of the config's.
      overrides: "path.to.field=value", applied to the config in order.
      local_pca: fitted PCA of local descriptors (.npz), instead of the config's.

    Raises:
      InputError: no such folder or config, a damaged one, weights that do not fit, or settings for
        a SavedModel, in which they are fixed.
    """
    if Path(path).is_dir():
        from delf_tf.export import loading  # noqa: PLC0415 - TensorFlow takes seconds to load

        require(
            weights is None and local_pca is None and not overrides,
            "weights, overrides and local_pca must be left out: an exported extractor has its own.",
            path=path,
        )
        return loading.load_saved_extractor(path)
    message = config.load_experiment(str(path), overrides)
    if weights is not None:
        message.model.weights = str(weights)
    if experiment.needs_local_pca(message) and local_pca is None:
        logging.warning("No PCA is given: local descriptors come as the network gives them.")
    return experiment.create_extractor(message, local_pca=local_pca)
