"""Super-features (FIRe) of Weinzaepfel, Lucas, Larlus and Kalantidis.

Learning Super-Features for Image Retrieval, ICLR 2022, arXiv 2201.13182.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from delf_tf.checks import require
from delf_tf.models.layers import dense, l2_normalize, layer_norm, register
from delf_tf.models.retrieval_model import RetrievalModel

# Added to attention before it is normalised over cells, so that no template is left without any.
_MIN_ATTENTION = 1e-8
_MIN_SQUARED_STRENGTH = 1e-10


@register
class LocalFeatureIntegration(tf.keras.layers.Layer):
    """LIT: turns a map of any size into an ordered set of N features (section 3.1).

    Learnt templates are refined by T rounds of attention with shared weights. In each, the cells
    distribute themselves over the templates (a softmax over templates), and each template takes
    the mean of its cells' values (weights that sum to 1 over cells), then passes an MLP.

    Args:
      num_superfeatures: N, templates.
      superfeature_dim: d, their width.
      num_iterations: T.

    Input shape: [B, h, w, C]. Outputs, float32: super-features [B, N, d], and the last round's
    attention [B, N, h, w], each map summing to 1.
    """

    def __init__(
        self,
        num_superfeatures: int = 256,
        superfeature_dim: int = 1024,
        num_iterations: int = 6,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        require(
            num_superfeatures >= 1,
            "num_superfeatures must be positive.",
            received=num_superfeatures,
        )
        require(
            superfeature_dim >= 2, "superfeature_dim must be at least 2.", received=superfeature_dim
        )
        require(num_iterations >= 1, "num_iterations must be positive.", received=num_iterations)
        self.num_superfeatures = num_superfeatures
        self.superfeature_dim = superfeature_dim
        self.num_iterations = num_iterations
        # Templates are summed over rounds: they and their norms stay in float32 at any policy.
        self.norm_inputs = layer_norm()
        self.norm_templates = layer_norm()
        self.norm_mlp = layer_norm()
        self.query = dense(superfeature_dim, use_bias=False)
        self.key = dense(superfeature_dim, use_bias=False)
        self.value = dense(superfeature_dim, use_bias=False)
        self.mlp_hidden = dense(superfeature_dim // 2)
        self.mlp_out = dense(superfeature_dim)

    def build(self, input_shape: Any) -> None:
        """Makes the templates [N, d] and the layers' variables."""
        dim = self.superfeature_dim
        self.templates = self.add_weight(
            name="templates",
            shape=(self.num_superfeatures, dim),
            dtype="float32",
            initializer="zeros",  # Values are drawn by path after construction.
        )
        channels = int(input_shape[-1])
        for layer in (self.norm_inputs, self.key, self.value):
            layer.build((None, None, channels))
        for layer in (self.norm_templates, self.norm_mlp, self.query, self.mlp_hidden):
            layer.build((None, None, dim))
        self.mlp_out.build((None, None, dim // 2))
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See the class."""
        shape = tf.shape(x)
        cells = tf.reshape(x, (shape[0], shape[1] * shape[2], x.shape[-1]))
        cells = self.norm_inputs(cells)
        keys = self.key(cells) * self.superfeature_dim**-0.5
        values = self.value(cells)
        templates = tf.tile(tf.convert_to_tensor(self.templates)[tf.newaxis], (shape[0], 1, 1))
        templates = tf.cast(templates, tf.float32)
        for _ in range(self.num_iterations):
            attention = self._attend(keys, templates)
            taken = tf.matmul(tf.cast(attention, values.dtype), values)
            templates += tf.cast(taken, tf.float32)
            hidden = tf.nn.relu(self.mlp_hidden(self.norm_mlp(templates)))
            templates += tf.cast(self.mlp_out(hidden), tf.float32)
        maps = (shape[0], self.num_superfeatures, shape[1], shape[2])
        return templates, tf.reshape(attention, maps)

    def _attend(self, keys: tf.Tensor, templates: tf.Tensor) -> tf.Tensor:
        """Returns attention [B, N, L] float32, rows summing to 1."""
        queries = self.query(self.norm_templates(templates))
        logits = tf.matmul(tf.cast(queries, keys.dtype), keys, transpose_b=True)
        attention = tf.nn.softmax(tf.cast(logits, tf.float32), axis=1) + _MIN_ATTENTION
        return attention / tf.reduce_sum(attention, axis=2, keepdims=True)


@register
class SuperFeatures(RetrievalModel):
    """Super-features of the stage-4 map, with their strengths and attention maps.

    At inference the strongest over all scales of an image are kept, L2-normalised and aggregated
    by ASMK; there is no global descriptor.

    Args:
      backbone: a name of backbones.create.BACKBONES.
      num_superfeatures: N, learnt templates.
      superfeature_dim: width of super-features before reduction.
      num_iterations: T, rounds of attention.
      local_dim: width after reduction; 0 leaves it out. The reduction is not trained: the authors
        set it by PCA whitening of training images' super-features.
      **options: of the backbone and the preprocessing, see RetrievalModel.
    """

    output_names_available = ("superfeatures",)
    local_output = "superfeatures"
    global_dim = None
    last_level = "stride16"

    def __init__(
        self,
        backbone: str,
        *,
        num_superfeatures: int = 256,
        superfeature_dim: int = 1024,
        num_iterations: int = 6,
        local_dim: int = 128,
        **options: Any,
    ):
        require(local_dim >= 0, "local_dim must not be negative.", local_dim=local_dim)
        super().__init__(backbone, **options)
        self.integration = LocalFeatureIntegration(
            num_superfeatures, superfeature_dim, num_iterations
        )
        self.reduction = dense(local_dim) if local_dim else None
        if self.reduction is not None:
            self.reduction.trainable = False

    @property
    def local_dim(self) -> int:
        """Width of the super-features that `call` gives."""
        return self.reduction.units if self.reduction else self.integration.superfeature_dim

    def integrate(self, images: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns super-features before reduction [B, N, d], and attention [B, N, h, w]."""
        maps = self.backbone(self.preprocess(images), training=training, last="stride16")
        return self.integration(maps["stride16"])

    def infer(
        self, images: tf.Tensor, training: bool, outputs: tuple[str, ...]
    ) -> dict[str, tf.Tensor]:
        """Computes what ASMK needs.

        Returns:
          {"superfeatures": [B, N, local_dim], reduced and not normalised; "strengths": [B, N], the
          L2 norms before reduction; "attention": [B, N, h, w], each map summing to 1}, float32.
        """
        if not outputs:
            return {}
        features, attention = self.integrate(images, training)
        squared = tf.reduce_sum(tf.square(features), axis=-1)
        reduced = features if self.reduction is None else self.reduction(features)
        return {
            "superfeatures": tf.cast(reduced, tf.float32),
            "strengths": tf.sqrt(squared + _MIN_SQUARED_STRENGTH),
            "attention": attention,
        }

    def training_outputs(self, images: tf.Tensor, training: bool = True) -> dict[str, tf.Tensor]:
        """Computes what the losses need.

        Returns:
          "superfeatures" [B, N, superfeature_dim], before reduction, L2-normalised; "attention"
          [B, N, h, w]; "embedding" [B, superfeature_dim], their mean before normalisation: the
          input of the classifier that pre-trains backbone and templates. All float32.
        """
        features, attention = self.integrate(images, training)
        return {
            "superfeatures": l2_normalize(features),
            "attention": attention,
            "embedding": tf.reduce_mean(features, axis=1),
        }
