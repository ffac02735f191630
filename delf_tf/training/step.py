"""One training step: losses, gradients and update on all replicas."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from delf_tf.training.objective import Objective
from delf_tf.training.optimizers import Optimizer


def create_train_step(
    objective: Objective,
    optimizer: Optimizer,
    strategy: tf.distribute.Strategy,
    *,
    batch_size: int,
    jit_compile: bool = False,
) -> Callable[..., dict[str, tf.Tensor]]:
    """Returns the compiled step; pure TensorFlow of static shapes, as XLA and TPUs need.

    Args:
      objective: model and losses.
      optimizer: of the objective's variables.
      strategy: what the step runs on.
      batch_size: global.
      jit_compile: compile the whole step by XLA (one device; a TPU always does).

    Returns:
      A function of (images, labels, learning rate, count, seed), see Optimizer.apply and Objective,
      that gives the metrics of the step, scalars by name: "loss", "NAME_loss" of each loss before
      its weight, "accuracy" and "gradient_norm".
    """
    share = 1.0 / batch_size

    def step(
        images: tf.Tensor,
        labels: tf.Tensor,
        learning_rate: tf.Tensor,
        count: tf.Tensor,
        seed: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        def replica(images: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
            with tf.GradientTape() as tape:
                losses, correct = objective(images, labels, seed)
                # Every loss is a mean over the global batch: no weight depends on replicas.
                means = {name: tf.reduce_sum(loss) * share for name, loss in losses.items()}
                total = tf.add_n([objective.weights[name] * one for name, one in means.items()])
            gradients = tape.gradient(total, optimizer.trained)
            norm = optimizer.apply(gradients, learning_rate, count)
            shown = {f"{name}_loss": one for name, one in means.items()}
            accuracy = tf.reduce_sum(correct) * share
            return {"loss": total, **shown, "accuracy": accuracy, "gradient_norm": norm}

        results = strategy.run(replica, args=(images, labels))
        add = tf.distribute.ReduceOp.SUM
        summed = {name: strategy.reduce(add, one, axis=None) for name, one in results.items()}
        summed["gradient_norm"] /= strategy.num_replicas_in_sync
        return summed

    return tf.function(step, jit_compile=jit_compile and strategy.num_replicas_in_sync == 1)
