"""Optimizers as one step: gradients summed over replicas once, clipped, applied, averaged.

Keras' optimizers differ between Keras 2 and 3 in whether they sum, when they clip and how they are
saved; tensorflow-addons' fail in several of these on more than one replica. These rules are few
lines each, the same on both stacks, and their state is arrays by name.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from delf_tf.checks import require, require_choice

Rule = Callable[["Settings", "Update"], None]

# Of the second moment's average, and added to its root.
_BETA_2, _EPSILON = 0.999, 1e-8


@dataclasses.dataclass(frozen=True)
class Settings:
    """Numbers of the rules.

    Attributes:
      momentum: of SGD, or β1 of the others.
      nesterov: whether SGD looks ahead.
    """

    momentum: float = 0.9
    nesterov: bool = True


@dataclasses.dataclass(frozen=True)
class Update:
    """What a rule has for one variable in one step.

    Attributes:
      variable: changed in place.
      gradient: summed and clipped, of the variable's shape.
      learning_rate: float32 scalar.
      count: float32 scalar, the steps taken including this one.
      slots: the rule's own variables, changed in place.
      decay: of the variable's weights.
    """

    variable: tf.Variable
    gradient: tf.Tensor
    learning_rate: tf.Tensor
    count: tf.Tensor
    slots: Sequence[tf.Variable]
    decay: float

    def with_decay(self) -> tf.Tensor:
        """Returns the gradient of the loss and of the weights' squared norm."""
        return self.gradient + self.decay * self.variable

    def move(self, direction: tf.Tensor) -> None:
        """Goes against `direction` by the learning rate."""
        self.variable.assign_sub(self.learning_rate * direction)


def sgd(settings: Settings, one: Update) -> None:
    """SGD with (Nesterov) momentum; weight decay is part of the gradient."""
    one.move(_momentum(settings, one.with_decay(), one.slots[0]))


def sgdw(settings: Settings, one: Update) -> None:
    """SGD with decoupled weight decay (arXiv 1711.05101, algorithm 1)."""
    shrinkage = one.decay * one.variable
    one.move(_momentum(settings, one.gradient, one.slots[0]) + shrinkage)


def adam(settings: Settings, one: Update) -> None:
    """Adam (arXiv 1412.6980, algorithm 1); weight decay is part of the gradient."""
    one.move(_adam(settings, one.with_decay(), one))


def adamw(settings: Settings, one: Update) -> None:
    """Adam with decoupled weight decay (arXiv 1711.05101, algorithm 2)."""
    one.move(_adam(settings, one.gradient, one) + one.decay * one.variable)


def lamb(settings: Settings, one: Update) -> None:
    """LAMB (arXiv 1904.00962, algorithm 2): AdamW's direction, scaled to the variable's norm."""
    direction = _adam(settings, one.gradient, one) + one.decay * one.variable
    weight_norm, norm = tf.norm(one.variable), tf.norm(direction)
    known = (weight_norm > 0) & (norm > 0)
    one.move(tf.where(known, weight_norm / tf.where(known, norm, 1.0), 1.0) * direction)


def radam(settings: Settings, one: Update) -> None:
    """Rectified Adam (arXiv 1908.03265, algorithm 2) with decoupled weight decay."""
    mean, spread = _corrected(settings, one.gradient, one)
    power = tf.pow(_BETA_2, one.count)
    longest = 2.0 / (1.0 - _BETA_2) - 1.0
    length = longest - 2.0 * one.count * power / _missing(_BETA_2, one.count)
    rectifier = tf.sqrt(
        tf.maximum((length - 4.0) * (length - 2.0) * longest, 0.0)
        / ((longest - 4.0) * (longest - 2.0) * tf.maximum(length, 1.0))
    )
    rectified = rectifier * mean / (spread + _EPSILON)
    one.move(tf.where(length >= 5.0, rectified, mean) + one.decay * one.variable)


# Name -> the rule, and the names of its slots.
RULES: dict[str, tuple[Rule, tuple[str, ...]]] = {
    "sgd": (sgd, ("momentum",)),
    "sgdw": (sgdw, ("momentum",)),
    "adam": (adam, ("first_moment", "second_moment")),
    "adamw": (adamw, ("first_moment", "second_moment")),
    "lamb": (lamb, ("first_moment", "second_moment")),
    "radam": (radam, ("first_moment", "second_moment")),
}


class Optimizer(tf.Module):
    """Updates variables by one of `RULES`.

    Call `apply` in replica context (inside strategy.run) with each replica's own gradients of its
    share of the global loss: they are summed here, and nowhere else.
    """

    def __init__(
        self,
        rule: str,
        variables: Mapping[str, Any],
        *,
        weight_decay: float = 0.0,
        clip_norm: float = 0.0,
        ema_decay: float = 0.0,
        settings: Settings | None = None,
    ):
        """Makes the slots; under a strategy, within its scope.

        Args:
          rule: a key of `RULES`.
          variables: path -> trainable variable, of Keras 2, 3, or plain.
          weight_decay: for variables of at least two axes; norms' scales, biases and GeM's exponent
            never decay.
          clip_norm: global norm that the summed gradients are scaled down to; 0 leaves them.
          ema_decay: of the exponential moving average of the variables, below 1; 0 keeps none.
            Early on it averages over fewer steps: min(ema_decay, (1 + count) / (10 + count)).
          settings: numbers of the rule.

        Raises:
          InputError: unknown rule, or a number out of range.
        """
        super().__init__(name="optimizer")
        require_choice("optimizer", rule, RULES)
        require(weight_decay >= 0, "weight_decay must not be negative.", weight_decay=weight_decay)
        require(clip_norm >= 0, "clip_norm must not be negative.", clip_norm=clip_norm)
        require(0 <= ema_decay < 1, "ema_decay must lie in [0, 1).", ema_decay=ema_decay)
        require(bool(variables), "There must be a variable to train.")
        self._rule, slot_names = RULES[rule]
        self._settings = settings or Settings()
        self._clip_norm, self._ema_decay = clip_norm, ema_decay
        self._paths = sorted(variables)
        self.trained = [plain_variable(variables[path]) for path in self._paths]
        self._decays = [weight_decay if len(one.shape) > 1 else 0.0 for one in self.trained]
        self._slots = [[_slot(one, name) for name in slot_names] for one in self.trained]
        self._averages = [_slot(one, "ema", copy=True) for one in self.trained] if ema_decay else []
        self._slot_names = slot_names

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The slots by name: "momentum/PATH", …, and the average as "ema/PATH"."""
        named = {
            f"{name}/{path}": slot
            for path, slots in zip(self._paths, self._slots)
            for name, slot in zip(self._slot_names, slots)
        }
        named.update({f"ema/{path}": one for path, one in zip(self._paths, self._averages)})
        return named

    @property
    def averages(self) -> dict[str, tf.Variable]:
        """The moving average by path; empty without `ema_decay`."""
        return dict(zip(self._paths, self._averages))

    def apply(
        self, gradients: Sequence[Any], learning_rate: tf.Tensor, count: tf.Tensor
    ) -> tf.Tensor:
        """Takes a step.

        Args:
          gradients: of `self.trained`, in that order; None counts as 0, IndexedSlices are summed.
          learning_rate: float32 scalar.
          count: float32 scalar, steps taken including this one.

        Returns:
          The global norm of the summed gradients before clipping, float32 scalar.
        """
        dense = [
            tf.zeros_like(variable)
            if one is None
            else tf.cast(tf.convert_to_tensor(one), tf.float32)
            for one, variable in zip(gradients, self.trained)
        ]
        context = tf.distribute.get_replica_context()
        if context.num_replicas_in_sync > 1:
            dense = context.all_reduce(tf.distribute.ReduceOp.SUM, dense)
        norm = tf.linalg.global_norm(dense)
        if self._clip_norm:
            scale = self._clip_norm / tf.maximum(norm, self._clip_norm)
            dense = [one * scale for one in dense]
        context.merge_call(self._update_all, args=(dense, learning_rate, count))
        return norm

    def _update_all(
        self,
        strategy: tf.distribute.Strategy,
        gradients: Sequence[tf.Tensor],
        learning_rate: tf.Tensor,
        count: tf.Tensor,
    ) -> None:
        for row, variable in enumerate(self.trained):
            average = self._averages[row : row + 1]
            strategy.extended.update(
                variable,
                self._updater(self._decays[row], len(self._slots[row])),
                args=(gradients[row], learning_rate, count, *self._slots[row], *average),
            )

    def _updater(self, decay: float, num_slots: int) -> Callable[..., None]:
        def update(
            variable: tf.Variable,
            gradient: tf.Tensor,
            learning_rate: tf.Tensor,
            count: tf.Tensor,
            *slots: tf.Variable,
        ) -> None:
            one = Update(variable, gradient, learning_rate, count, slots[:num_slots], decay)
            self._rule(self._settings, one)
            for average in slots[num_slots:]:
                keep = tf.minimum(self._ema_decay, (1.0 + count) / (10.0 + count))
                average.assign(keep * average + (1.0 - keep) * variable)

        return update


def plain_variable(variable: Any) -> tf.Variable:
    """Returns the tf.Variable inside a variable of Keras 3; any other as it is."""
    value = getattr(variable, "value", None)
    return variable if value is None or callable(value) else variable._value


def _slot(variable: tf.Variable, name: str, copy: bool = False) -> tf.Variable:
    with tf.distribute.get_strategy().extended.colocate_vars_with(variable):
        initial = variable.read_value() if copy else tf.zeros(variable.shape, variable.dtype)
        return tf.Variable(initial, trainable=False, name=name)


def _momentum(settings: Settings, gradient: tf.Tensor, slot: tf.Variable) -> tf.Tensor:
    velocity = settings.momentum * slot + gradient
    slot.assign(velocity)
    return gradient + settings.momentum * velocity if settings.nesterov else velocity


def _adam(settings: Settings, gradient: tf.Tensor, one: Update) -> tf.Tensor:
    mean, spread = _corrected(settings, gradient, one)
    return mean / (spread + _EPSILON)


def _corrected(settings: Settings, gradient: tf.Tensor, one: Update) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the running mean and root mean square, both without their bias to 0."""
    first = settings.momentum * one.slots[0] + (1.0 - settings.momentum) * gradient
    second = _BETA_2 * one.slots[1] + (1.0 - _BETA_2) * tf.square(gradient)
    one.slots[0].assign(first)
    one.slots[1].assign(second)
    mean = first / _missing(settings.momentum, one.count)
    return mean, tf.sqrt(second / _missing(_BETA_2, one.count))


def _missing(beta: float, count: tf.Tensor) -> tf.Tensor:
    """Returns 1 - beta^count to full precision, also where that is near 0."""
    return -tf.math.expm1(count * math.log(beta)) if beta else tf.ones_like(count)
