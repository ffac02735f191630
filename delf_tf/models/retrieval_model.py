"""Base class of the networks: RGB batches in, a dict of descriptors out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar

import tensorflow as tf

from delf_tf.checks import require_choice
from delf_tf.models.backbones.create import create_backbone
from delf_tf.models.geometry import CellGrid
from delf_tf.models.layers import Preprocessing
from delf_tf.models.variables import draw_values

# Options that change what is computed but no variable, so that weights fit any of their values.
FREE_OPTIONS = ("descriptor", "backbone_scale", "global_pooling")


class RetrievalModel(tf.keras.Model):
    """Base of the networks.

    A subclass makes its layers in `__init__`, one attribute each, and defines
    `output_names_available`, `infer` and `training_outputs`.

    Attributes:
      preprocess: the layer that turns RGB 0..255 into the backbone's input.
      backbone: a layer that gives named maps (backbones/create.py).
      output_names_available: what `outputs` may name; "global", "local", or a network's own.
      global_dim: width of the global descriptor, or None.
      local_dim: width of local descriptors, or None.
      local_stride: distance of neighbouring local features, input pixels.
      inference_precision: of an inference copy (extraction.folding), whose weights are not for
        training; None for every other network.
      local_output: which output holds the local features: "local", or "superfeatures", which lie
        where their attention does.
      maskable: whether images in a padded batch give what each gives alone (masking.valid_area), if
        the backbone's padding allows it.

    Args:
      backbone: a name of backbones.create.BACKBONES, or a layer like them.
      preprocessing: arguments of layers.Preprocessing; None: what the published weights of the
        backbone of that name expect.
      backbone_form: which published ResNet it is (resnet.FORMS); None: the backbone's default. The
        original's checkpoints need "keras".
      width_multiplier: of the backbone's channels; None: 1.
    """

    output_names_available: tuple[str, ...] = ()
    local_output = "local"
    maskable = True
    inference_precision: str | None = None
    # Builds a model of `options`; the registry sets it, as it imports this module.
    rebuild: ClassVar[Callable[[dict[str, Any]], RetrievalModel]]
    # The deepest level of the backbone that is used; None: its own.
    last_level: str | None = None

    def __init__(
        self,
        backbone: str | tf.keras.layers.Layer,
        preprocessing: dict[str, Any] | None = None,
        *,
        backbone_form: str | None = None,
        width_multiplier: float | None = None,
    ):
        # Images stay in float32 under a mixed policy until they are normalised.
        super().__init__(autocast=False)
        if isinstance(backbone, str):
            backbone, usual = create_backbone(
                backbone, backbone_form, width_multiplier, self.last_level
            )
            preprocessing = preprocessing or usual
        self.preprocess = Preprocessing(**(preprocessing or {}))
        self.backbone = backbone
        self._options_json = "{}"

    @property
    def options(self) -> dict[str, Any]:
        """JSON-able {"name", "kwargs", "preprocessing"}: arguments of `build`."""
        return {
            **json.loads(self._options_json),
            "preprocessing": self.preprocess.options(),
        }

    def record_options(self, name: str, kwargs: dict[str, Any]) -> None:
        """Keeps what rebuilds this model; `build` calls it."""
        self._options_json = json.dumps({"name": name, "kwargs": kwargs})

    def infer(
        self, images: tf.Tensor, training: bool, outputs: tuple[str, ...]
    ) -> dict[str, tf.Tensor]:
        """Computes exactly what `outputs` names; a subclass defines it."""
        raise TypeError(f"{type(self).__name__} must define infer.")

    def training_outputs(self, images: tf.Tensor, training: bool = True) -> dict[str, tf.Tensor]:
        """Computes what losses need; a subclass defines it and names its keys."""
        raise TypeError(f"{type(self).__name__} must define training_outputs.")

    def call(
        self,
        images: tf.Tensor,
        training: bool = False,
        outputs: tuple[str, ...] | None = None,
    ) -> dict[str, tf.Tensor]:
        """Describes a batch of images.

        Args:
          images: [B, H, W, 3] float32 or uint8 RGB, 0..255; H and W may be any size from 1.
          training: whether batch normalisation uses the batch's statistics.
          outputs: static; which of `output_names_available` to compute, None means all. What is
            not asked for is not computed.

        Returns:
          For "global": {"global": [B, D] float32, rows L2-normalised}. For "local": {"features":
          [B, h, w, D] float32, as the network gives them, not normalised, "scores": [B, h, w]
          float32, at least 0}. Feature (i, j) lies at input pixel
          (local_offset(H) + local_stride * i, local_offset(W) + local_stride * j), unless there are
          "locations" [B, h, w, 2] float32, (y, x), of a network that places features itself.

        Raises:
          InputError: an output the model does not have.
        """
        if outputs is None:
            outputs = self.output_names_available
        for name in outputs:
            require_choice("outputs", name, self.output_names_available)
        if images.shape[0] == 0:
            # TensorFlow's CPU convolutions give wrong shapes for an empty batch.
            one = tf.zeros([1, *images.shape[1:]])
            return {key: value[:0] for key, value in self.infer(one, False, tuple(outputs)).items()}
        return self.infer(images, training, tuple(outputs))

    def local_grid(self, size: int) -> CellGrid:
        """Returns where local features lie along an axis of `size` input pixels."""
        return self.backbone.grid("stride16", size)

    @property
    def local_stride(self) -> int:
        """Distance of neighbouring local features, input pixels."""
        return 16

    def local_offset(self, size: int) -> float:
        """Returns the centre of local feature 0 along an axis, input pixels.

        The centre of the first pixel is 0. With "same" padding it depends on the size.

        Args:
          size: input pixels along the axis.
        """
        return self.local_grid(size).offset

    def initialize(self, seed: int | None = None) -> None:
        """Makes all variables, and draws the random ones from `seed` (variables.draw_values)."""
        self.make_variables()
        draw_values(self, seed)

    def make_variables(self) -> None:
        """Makes all variables, those of `training_outputs` as well."""
        # Not through __call__, which in Keras 3 would trace the network once more.
        self.call(tf.zeros([1, 32, 32, 3]))
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Returns `options`; Keras rebuilds the model from them."""
        return self.options

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> RetrievalModel:
        """Returns a new model, its random weights not yet those of the old one."""
        return cls.rebuild(config)
