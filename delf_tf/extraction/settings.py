"""Settings of extraction: scales, kinds of features, selection. No TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from delf_tf.checks import as_array, require

# The smallest side, in pixels, that is worth a descriptor; the original draws the same line.
MIN_SIDE_PX = 10

# The largest factor of a pyramid.
MAX_SCALE = 8

# Fields of local features, one row a feature.
LOCAL_NAMES = ("locations", "descriptors", "scores", "scales")

# local_offset depends on the size only through its remainders by the strides, all of which divide
# this; a table of one period serves every size.
OFFSET_PERIOD = 64


class Projection(NamedTuple):
    """PCA, whitening folded in: L2-normalise, subtract `mean` [D], multiply by `matrix` [d, D]."""

    mean: np.ndarray
    matrix: np.ndarray


class Pass(NamedTuple):
    """One run of the network: at which scale, and for which kinds of features."""

    scale: float
    use_global: bool
    use_local: bool


@dataclasses.dataclass(frozen=True)
class ExtractionSettings:
    """Settings that every extractor of ours understands.

    Attributes:
      image_scales: pyramid factors.
      global_scales_ind: indices into image_scales for the global descriptor; empty for all.
      use_global_features: give "global_descriptor".
      use_local_features: give "locations", "descriptors", "scores" and "scales".
      max_num_features: most local features of an image.
      score_threshold: local features with a lower score are dropped.
      nms_iou: see selection.select.
      nms_box_px: side of the box that stands for a feature in `nms_iou`, pixels at scale 1; the
        default is the receptive field of ResNet's stage 4, as in the original.
      border_cells: local features in this many rows and columns at each edge of the feature map
        are dropped: there padding is much of what the network sees, which makes unlike images
        match, edge to edge.
      local_projection: PCA of local descriptors.
      global_projection: PCA of each scale's global descriptor.
    """

    image_scales: Sequence[float] = (1.0,)
    global_scales_ind: Sequence[int] = ()
    use_global_features: bool = True
    use_local_features: bool = False
    max_num_features: int = 1000
    score_threshold: float = 0.0
    nms_iou: float = 1.0
    nms_box_px: float = 291.0
    border_cells: int = 0
    local_projection: Projection | None = None
    global_projection: Projection | None = None

    def __post_init__(self) -> None:
        """Checks them.

        Raises:
          InputError: one is out of its range.
        """
        scales = _checked_scales(self.image_scales)
        object.__setattr__(self, "image_scales", scales)
        indices = _checked_indices(self.global_scales_ind, len(scales))
        object.__setattr__(self, "global_scales_ind", indices)
        require(
            self.use_global_features or self.use_local_features,
            "An extractor must give global features, local features, or both.",
            hint="Set use_global_features or use_local_features.",
        )
        most, border = self.max_num_features, self.border_cells
        require(most >= 1, "max_num_features must be at least 1.", max_num_features=most)
        require(border >= 0, "border_cells must be 0 or more.", border_cells=border)

    def require_outputs(self, network: Any) -> None:
        """Requires that a network, or a description of one, gives what is asked for.

        Args:
          network: has `output_names_available`, `local_output` and `options`, as RetrievalModel.

        Raises:
          InputError: it does not.
        """
        given, local = network.output_names_available, network.local_output
        wanted = ("global",) * self.use_global_features + (local,) * self.use_local_features
        missing = [name for name in wanted if name not in given]
        require(
            not missing,
            f"The model must give {' and '.join(missing)} features.",
            hint=f"It gives: {', '.join(given)}.",
            model=network.options["name"],
        )
        require(
            not self.border_cells or local == "local",
            "border_cells must be 0 for super-features, which belong to no cell.",
            border_cells=self.border_cells,
        )

    def passes(self) -> Iterator[Pass]:
        """Yields the passes of the network that are of use."""
        for index, scale in enumerate(self.image_scales):
            needs_global = self.use_global_features and index in self.global_scales_ind
            if needs_global or self.use_local_features:
                yield Pass(scale, needs_global, self.use_local_features)


class BaseExtractor:
    """What all extractors have: settings, and what these say of their features.

    Attributes:
      settings: what is extracted.
      use_global_features: whether "global_descriptor" is given.
      use_local_features: whether local features are given.
      global_dim: width of the global descriptor, or None.
      local_dim: width of local descriptors, or None.
      global_projection: of each scale's global descriptor, checked; or None.
      local_projection: of local descriptors, likewise.
    """

    def apply_settings(
        self, settings: ExtractionSettings, global_dim: int | None, local_dim: int | None
    ) -> None:
        """Checks the settings against the network's widths, and sets the attributes.

        Args:
          settings: what is extracted.
          global_dim: width of the network's own global descriptor, if it is asked for.
          local_dim: likewise of local descriptors.

        Raises:
          InputError: a projection of another width, or not finite.
        """
        self.settings = settings
        self.use_global_features = settings.use_global_features
        self.use_local_features = settings.use_local_features
        self.global_projection, self.global_dim = _fitting(
            "global_projection", settings.global_projection, global_dim, self.use_global_features
        )
        self.local_projection, self.local_dim = _fitting(
            "local_projection", settings.local_projection, local_dim, self.use_local_features
        )


def _fitting(
    name: str, projection: Projection | None, dim: int | None, wanted: bool
) -> tuple[Projection | None, int | None]:
    """Returns a projection of descriptors of width `dim`, checked, and the width that it gives."""
    if not wanted or projection is None:
        return None, dim if wanted else None
    matrix = as_array(f"{name}.matrix", projection.matrix, ("d", dim))
    return Projection(as_array(f"{name}.mean", projection.mean, (dim,)), matrix), len(matrix)


def _checked_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """Returns the pyramid's factors as floats.

    Raises:
      InputError: none, or one outside (0, MAX_SCALE].
    """
    scales = tuple(float(scale) for scale in scales)
    require(
        bool(scales) and all(0 < scale <= MAX_SCALE for scale in scales),
        f"image_scales must be one or more factors above 0 and at most {MAX_SCALE}.",
        image_scales=scales,
    )
    return scales


def _checked_indices(indices: Sequence[int], num_scales: int) -> tuple[int, ...]:
    """Returns the indices of the scales that are pooled: all if none are given.

    Raises:
      InputError: one is outside 0..num_scales - 1.
    """
    indices = tuple(int(index) for index in indices) or tuple(range(num_scales))
    require(
        all(0 <= index < num_scales for index in indices),
        f"global_scales_ind must index image_scales, 0..{num_scales - 1}.",
        global_scales_ind=indices,
    )
    return indices


def offset_table(network: Any) -> list[float]:
    """Returns a network's local_offset for every remainder of a size by OFFSET_PERIOD."""
    return [network.local_offset(8 * OFFSET_PERIOD + rest) for rest in range(OFFSET_PERIOD)]
