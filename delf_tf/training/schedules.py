"""Learning-rate schedules as functions of a run's progress, by steps or by time."""

from __future__ import annotations

import math
from collections.abc import Callable

from delf_tf.checks import require, require_choice

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """Stays at 1."""
    del progress
    return 1.0


def linear(progress: float) -> float:
    """Falls evenly from 1 to 0; the original DELF's and DELG's."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """Falls from 1 to 0 along half a cosine (arXiv 1608.03983, eq. 5, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
}


def create_schedule(
    name: str,
    peak: float,
    *,
    warmup_steps: int = 0,
) -> Callable[[int, float], float]:
    """Returns a function of (step, progress) that gives the learning rate.

    Args:
      name: a key of `SCHEDULES`.
      peak: the rate where the schedule stands at 1; >= 0.
      warmup_steps: over these the rate grows evenly from peak / warmup_steps; the schedule's own
        fall goes on underneath.

    Raises:
      InputError: unknown name, negative rate or warm-up.
    """
    require_choice("schedule", name, SCHEDULES)
    require(peak >= 0 and math.isfinite(peak), "learning_rate must be >= 0.", learning_rate=peak)
    require(warmup_steps >= 0, "warmup_steps must not be negative.", warmup_steps=warmup_steps)
    fall = SCHEDULES[name]

    def learning_rate(step: int, progress: float) -> float:
        warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        return peak * warmup * fall(min(max(progress, 0.0), 1.0))

    return learning_rate
