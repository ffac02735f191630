"""ELViS: a learned similarity of two images' local features (ICLR 2026).

Descriptors are projected and matched by optimal transport with a dustbin; each feature votes by its
best match. `delf_tf.retrieval.second_stage.elvis` computes the same without TensorFlow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from delf_tf.checks import require
from delf_tf.models.layers import dense, l2_normalize, layer_norm, register
from delf_tf.models.variables import draw_values

# Below every sum of a transport's terms; padding alone comes to 0.
_TINY = 1e-30


@register
class Elvis(tf.keras.layers.Layer):
    """The similarity of pairs of sets of local features, whatever the sets' sizes.

    A cosine s of projected descriptors becomes exp(s / temperature); each feature has a learned
    similarity to the other image's dustbin. Sinkhorn's iterations scale rows and columns so that
    every feature gives 1 in all, and a dustbin takes what is left. A feature's vote is a function
    of the most that it gives to one feature; the similarity is the sum of all votes.

    Args:
      descriptor_dim: D of the local features.
      width: of the projection.
      num_iterations: of Sinkhorn.
      temperature: of the transport, the paper's regularisation.

    Input: float [P, 2, N, D], pairs of sets; rows of zeros are padding. Output: float32 [P].
    """

    def __init__(
        self,
        descriptor_dim: int = 64,
        width: int = 128,
        num_iterations: int = 10,
        temperature: float = 0.1,
        **kwargs: Any,
    ):
        # The transport stays in float32 at any policy; the layers that are held follow it.
        super().__init__(**{**kwargs, "dtype": "float32"})
        must = "descriptor_dim, width and num_iterations must be positive."
        counts = {
            "descriptor_dim": descriptor_dim,
            "width": width,
            "num_iterations": num_iterations,
        }
        require(min(counts.values()) >= 1, must, **counts)
        require(temperature > 0, "temperature must be positive.", temperature=temperature)
        self._arguments = {**counts, "temperature": temperature}
        self.projection, self.projection_norm = dense(width), layer_norm()
        self.dustbin_hidden, self.dustbin = dense(width), dense(1)
        self.vote_hidden, self.vote_norm, self.vote = dense(16), layer_norm(), dense(1)
        self.logit_hidden, self.logit_out = dense(64), dense(1)

    def build(self, input_shape: Any = None) -> None:
        """Makes the variables."""
        del input_shape
        dim, width = self._arguments["descriptor_dim"], self._arguments["width"]
        self.corner = self.add_weight(name="corner", shape=(), dtype="float32", initializer="ones")
        sets, votes = (None, 2, None), (None, None)
        inputs = {
            "projection": (*sets, dim),
            "projection_norm": (*sets, width),
            "dustbin_hidden": (*sets, width),
            "dustbin": (*sets, width),
            "vote_hidden": (*votes, 1),
            "vote_norm": (*votes, 16),
            "vote": (*votes, 16),
            "logit_hidden": (None, 1),
            "logit_out": (None, 64),
        }
        for name, shape in inputs.items():
            getattr(self, name).build(shape)
        super().build((None, 2, None, dim))

    def initialize(self, seed: int | None) -> None:
        """Builds the layer and draws its weights from a seed; None draws the seed.

        Votes begin to rise where a tenth is given, and the logit rises slowly with their sum: drawn
        at random, the sum of hundreds of votes saturates the loss, and functions that fall take
        long to turn.
        """
        if not self.built:
            self.build()
        draw_values(self, seed)
        rising, across = np.repeat([1.0, -1.0], 8), np.tile([0.1, -0.1], 8)
        self.vote_hidden.kernel.assign(rising + 0.1 * np.asarray(self.vote_hidden.kernel))
        self.vote_hidden.bias.assign(across)
        self.vote.kernel.assign(rising[:, np.newaxis] * 0.25 + 0.1 * np.asarray(self.vote.kernel))
        self.vote.bias.assign([-4.0])
        self.logit_hidden.kernel.assign(0.01 * np.abs(self.logit_hidden.kernel))
        self.logit_out.kernel.assign(np.abs(self.logit_out.kernel))
        self.logit_out.bias.assign([-1.0])

    def call(self, pairs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See the class; training changes nothing."""
        del training
        mask = tf.cast(tf.reduce_any(pairs != 0, axis=-1), tf.float32)
        encoded = l2_normalize(self.projection_norm(self.projection(pairs)))
        hidden = tf.nn.gelu(self.dustbin_hidden(encoded), approximate=False)
        dustbin = tf.tanh(tf.cast(self.dustbin(hidden), tf.float32))[..., 0]
        plan = self._transport(encoded, dustbin, mask)
        given = self._votes(tf.reduce_max(plan, axis=2)) * mask[:, 0]
        taken = self._votes(tf.reduce_max(plan, axis=1)) * mask[:, 1]
        return tf.reduce_sum(given, axis=1) + tf.reduce_sum(taken, axis=1)

    def logit(self, similarity: tf.Tensor) -> tf.Tensor:
        """Returns float32 [P], what training compares with the truth, of similarities [P]."""
        hidden = tf.nn.gelu(self.logit_hidden(similarity[:, tf.newaxis]), approximate=False)
        return tf.cast(self.logit_out(hidden), tf.float32)[:, 0]

    @property
    def options(self) -> dict[str, Any]:
        """What a weights file says of the network."""
        return {"name": "elvis", "kwargs": dict(self._arguments), "preprocessing": {}}

    def _transport(self, encoded: tf.Tensor, dustbin: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns float32 [P, N, N], what each feature gives to each, the dustbins cut off."""
        cosines = tf.matmul(encoded[:, 0], encoded[:, 1], transpose_b=True)
        corner = tf.fill([tf.shape(cosines)[0], 1], tf.convert_to_tensor(self.corner))
        rows = tf.concat([cosines, dustbin[:, 0, :, tf.newaxis]], axis=2)
        last = tf.concat([dustbin[:, 1], corner], axis=1)[:, tf.newaxis]
        scores = tf.concat([rows, last], axis=1) / self._arguments["temperature"]
        present = [tf.pad(mask[:, side], [[0, 0], [0, 1]], constant_values=1.0) for side in (0, 1)]
        kernel = tf.exp(scores) * present[0][:, :, tf.newaxis] * present[1][:, tf.newaxis]
        counts = tf.reduce_sum(mask, axis=2)
        # A dustbin may take all of the other image's features.
        give = tf.concat([mask[:, 0], counts[:, 1:]], axis=1)
        take = tf.concat([mask[:, 1], counts[:, :1]], axis=1)
        column = present[1]
        for _ in range(self._arguments["num_iterations"]):
            row = give / tf.maximum(tf.linalg.matvec(kernel, column), _TINY)
            column = take / tf.maximum(tf.linalg.matvec(kernel, row, transpose_a=True), _TINY)
        return (kernel * row[:, :, tf.newaxis] * column[:, tf.newaxis])[:, :-1, :-1]

    def _votes(self, largest: tf.Tensor) -> tf.Tensor:
        """Returns float32 [P, N] in 0..1, of the most that each feature gives to one."""
        hidden = self.vote_norm(self.vote_hidden(largest[..., tf.newaxis]))
        vote = self.vote(tf.nn.gelu(hidden, approximate=False))
        return tf.sigmoid(tf.cast(vote, tf.float32))[..., 0]
