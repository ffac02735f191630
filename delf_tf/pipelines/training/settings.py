"""A config's section `training`: precision, optimizer, and the length and pace of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from delf_tf.checks import UsageError, require_choice
from delf_tf.protos import experiment_pb2
from delf_tf.training import optimizers, schedules, trainer

# Numeric precision of training -> Keras' policy, under which variables stay in float32.
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def require_section(message: experiment_pb2.Experiment) -> None:
    """Refuses an experiment that does not say how to train.

    Raises:
      UsageError: it has no section training.
    """
    if not message.HasField("training"):
        raise UsageError("A config to train by must have a section training.")


def set_precision(run: experiment_pb2.RunConfig) -> None:
    """Makes the networks that are built from now on compute in the run's precision.

    Raises:
      InputError: there is no such precision.
    """
    require_choice("precision", run.precision, _POLICIES)
    tf.keras.mixed_precision.set_global_policy(_POLICIES[run.precision])


def create_optimizer(
    options: experiment_pb2.OptimizerConfig, variables: Mapping[str, Any]
) -> optimizers.Optimizer:
    """Returns the optimizer of these variables."""
    return optimizers.Optimizer(
        options.name,
        variables,
        weight_decay=options.weight_decay,
        clip_norm=options.clip_norm,
        ema_decay=options.ema_decay,
        settings=optimizers.Settings(momentum=options.momentum, nesterov=options.nesterov),
    )


def pace(options: experiment_pb2.TrainingConfig) -> dict[str, Any]:
    """Returns a Trainer's arguments on how long and how fast it learns."""
    run, schedule = options.run, options.schedule
    return {
        "learning_rate": schedules.create_schedule(
            schedule.name, options.optimizer.learning_rate, warmup_steps=schedule.warmup_steps
        ),
        "limits": trainer.Limits(
            run.num_steps,
            run.max_seconds,
            run.checkpoint_interval,
            run.log_interval,
            run.eval_interval,
        ),
        "seed": run.seed,
    }
