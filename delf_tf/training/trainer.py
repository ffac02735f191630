"""The training loop: steps on any strategy, checkpoints, metrics, clean interruption."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from delf_tf import artifacts
from delf_tf.checks import InputError, invalid, require
from delf_tf.datasets.input.pipeline import InputPipeline
from delf_tf.training import run_state, throughput
from delf_tf.training.metrics_log import MetricsLog
from delf_tf.training.objective import Objective
from delf_tf.training.optimizers import Optimizer
from delf_tf.training.step import create_train_step
from delf_tf.training.strategy import distribute, worker_of

# The metrics of each step that are not written yet, by step.
Pending = list[tuple[int, dict[str, tf.Tensor]]]


class TrainingError(InputError):
    """Training cannot go on: a loss is not finite, or the data cannot be read."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Length of a run, and the intervals of its checkpoints, metrics and evaluations.

    Attributes:
      num_steps: the schedule's end.
      max_seconds: the run ends, and the schedule with it, after so much time in all; 0: no limit.
      checkpoint_interval: steps between checkpoints.
      log_interval: steps between lines of metrics.
      eval_interval: steps between evaluations; 0 for none but the last.
    """

    num_steps: int
    max_seconds: float = 0.0
    checkpoint_interval: int = 1000
    log_interval: int = 100
    eval_interval: int = 0

    def __post_init__(self) -> None:
        for name in ("num_steps", "checkpoint_interval", "log_interval"):
            value = getattr(self, name)
            require(value > 0, f"{name} must be positive.", **{name: value})
        require(self.max_seconds >= 0, "max_seconds must be >= 0.", max_seconds=self.max_seconds)


class Trainer:
    """Trains an objective on a pipeline's batches.

    The folder gets `checkpoints/step-N.npz`, `metrics.csv`, `tensorboard/`, `weights.npz` (the
    newest weights, or their moving average) and, with an evaluation, `best_weights.npz`. Started
    again with the same configuration, a run goes on from its last checkpoint; on CPU it then ends
    bit-equal to an undisturbed one.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        pipeline: InputPipeline,
        output_dir: artifacts.StrPath,
        *,
        learning_rate: Callable[[int, float], float],
        limits: Limits,
        strategy: tf.distribute.Strategy | None = None,
        jit_compile: bool = False,
        evaluate: Callable[[], Mapping[str, float]] | None = None,
        seed: int = 0,
        fingerprint: str = "",
        provenance: Mapping[str, Any] | None = None,
        peak_flops: float = 0.0,
    ):
        """Prepares a run; nothing is written yet.

        Args:
          objective: model and losses, made within the strategy's scope.
          optimizer: of the objective's variables, likewise.
          pipeline: global batches.
          output_dir: of the run.
          learning_rate: of (step, progress), see schedules.create_schedule.
          limits: length and pauses.
          strategy: None for one device.
          jit_compile: compile the whole step by XLA (one device; a TPU always does).
          evaluate: returns metrics by name, e.g. evaluation.RetrievalEvaluation; the first of them
            chooses the best weights.
          seed: of the sampling of classes.
          fingerprint: of the configuration; a checkpoint with another one is refused.
          provenance: JSON-able facts kept in every weights file, e.g. the training set.
          peak_flops: of all devices together, operations a second; if given, metrics hold the
            model FLOPs utilisation.
        """
        self._objective, self._pipeline = objective, pipeline
        self._folder = Path(output_dir)
        self._files = run_state.RunFiles(
            output_dir, objective, optimizer, fingerprint=fingerprint, provenance=provenance or {}
        )
        self._learning_rate, self._limits = learning_rate, limits
        self._strategy = strategy or tf.distribute.get_strategy()
        self._evaluate, self._seed, self._peak_flops = evaluate, seed, peak_flops
        self._is_chief = worker_of(self._strategy)[0] == 0
        self._train_step = create_train_step(
            objective,
            optimizer,
            self._strategy,
            batch_size=pipeline.batch_size,
            jit_compile=jit_compile,
        )
        self._step, self._seconds, self._best = 0, 0.0, -math.inf
        self._stop, self._warned = threading.Event(), False

    @property
    def step(self) -> int:
        """Steps taken."""
        return self._step

    def run(self) -> Path:
        """Trains to the end, or until SIGTERM or SIGINT, and saves; returns the weights' path.

        Raises:
          TrainingError: a loss was not finite (the last checkpoint is older), or the data
            cannot be read.
          InputError: the folder holds another run.
        """
        self._restore()
        log = MetricsLog(self._folder, self._step) if self._is_chief else None
        meter = self._meter()
        pending: Pending = []
        with _stopping_on_signals(self._stop):
            started = time.monotonic() - self._seconds
            batches = self._batches()
            while not self._finished():
                batch = meter.wait(lambda: self._next(batches))
                pending.append((self._step, self._train_step(*batch, *self._scalars())))
                self._step += 1
                meter.step()
                self._seconds = time.monotonic() - started
                if self._due(self._limits.log_interval):
                    self._flush(pending, meter, log)
                if self._due(self._limits.checkpoint_interval):
                    self._check(pending)
                    self._save()
                if self._due(self._limits.eval_interval):
                    self._check(pending)
                    self._run_evaluation(log)
                    started = time.monotonic() - self._seconds
        self._flush(pending, meter, log)
        self._save()
        if self._evaluate is not None and not self._stop.is_set():
            self._run_evaluation(log)
        if log is not None:
            log.close()
        return self._folder / "weights.npz"

    def stop(self) -> None:
        """Ends the run after the current step, as SIGTERM does."""
        self._stop.set()

    def _meter(self) -> throughput.Meter:
        batch_size, step_flops = self._pipeline.batch_size, 0.0
        if self._peak_flops:
            forward = throughput.forward_flops(
                lambda images: self._objective.model.training_outputs(images, training=False),
                self._pipeline.image_size,
            )
            step_flops = 3.0 * forward * batch_size
        return throughput.Meter(batch_size, step_flops, self._peak_flops)

    def _finished(self) -> bool:
        timed_out = 0 < self._limits.max_seconds <= self._seconds
        return self._stop.is_set() or self._step >= self._limits.num_steps or timed_out

    def _due(self, interval: int) -> bool:
        return bool(interval) and self._step % interval == 0

    def _scalars(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        progress = self._step / self._limits.num_steps
        if self._limits.max_seconds:
            progress = max(progress, self._seconds / self._limits.max_seconds)
        rate = self._learning_rate(self._step, progress)
        return (
            tf.constant(rate, tf.float32),
            tf.constant(self._step + 1, tf.float32),
            tf.constant([self._seed, self._step], tf.int32),
        )

    def _batches(self) -> Iterator[Any]:
        """Yields batches; datasets of mined tuples end with their epoch and are asked for anew."""
        while True:
            yield from distribute(self._strategy, self._pipeline, self._step)

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches)
        except tf.errors.OpError as error:
            raise invalid(
                "Every record of a batch must be readable.",
                hint='Name and leave out damaged records with check_records: "full" and '
                "max_bad_records in the config's training section.",
                error=TrainingError,
                step=self._step,
                reason=" ".join(str(error.message).split())[:300],
            ) from None

    def _flush(self, pending: Pending, meter: throughput.Meter, log: MetricsLog | None) -> None:
        if not pending:
            return
        self._check(pending)
        steps = [metrics for _, metrics in pending]
        means = {name: float(np.mean([one[name] for one in steps])) for name in steps[0]}
        means["learning_rate"] = float(self._scalars()[0])
        means.update(meter.read())
        if log is not None:
            log.write(self._step, means)
        self._warn_if_nothing_is_learnt(means)
        pending.clear()

    def _check(self, pending: Pending) -> None:
        for step, metrics in pending:
            bad = [name for name, value in metrics.items() if not np.isfinite(value)]
            if bad:
                raise invalid(
                    "Losses and gradients must be finite.",
                    hint="Lower the learning rate, lengthen the warm-up or clip gradients; look at "
                    "these images. The last checkpoint is from before.",
                    error=TrainingError,
                    step=step,
                    not_finite=bad,
                    images=self._pipeline.batch_ids(step),
                )

    def _warn_if_nothing_is_learnt(self, means: Mapping[str, float]) -> None:
        num_classes = max((h.num_classes for h in self._objective.heads.values()), default=0)
        chance = 1.0 / max(num_classes, 1)
        late = self._step >= max(200, self._limits.num_steps // 10)
        if num_classes > 1 and late and not self._warned and means["accuracy"] <= chance:
            self._warned = True
            logging.warning(
                "Accuracy %.2g is no better than chance after %d steps (loss %.3g, chance %.3g). "
                "Look at the labels (relabeling.csv), the learning rate, gradient_norm in "
                "metrics.csv, training.losses.margin (0 first) and the initial weights.",
                means["accuracy"],
                self._step,
                means["loss"],
                math.log(num_classes),
            )

    def _save(self) -> None:
        arrays = self._files.arrays()
        if self._is_chief:
            facts = {"seconds": self._seconds if self._limits.max_seconds else 0.0}
            facts["best"] = None if math.isinf(self._best) else self._best
            self._files.save(self._step, arrays, facts)

    def _restore(self) -> None:
        state = self._files.restore()
        if state is not None:
            self._step, self._seconds = state.step, float(state.facts["seconds"])
            best = state.facts["best"]
            self._best = -math.inf if best is None else float(best)

    def _run_evaluation(self, log: MetricsLog | None) -> None:
        with self._files.averaged():
            metrics = dict(self._evaluate() if self._evaluate is not None else {})
        if not metrics or log is None:
            return
        log.write(self._step, metrics)
        first = next(iter(metrics.values()))
        if first > self._best:
            self._best = first
            self._files.write_weights("best_weights.npz", self._step, self._files.arrays())


@contextlib.contextmanager
def _stopping_on_signals(stopped: threading.Event) -> Iterator[None]:
    """Sets `stopped` at SIGTERM and SIGINT; of other threads than the main one nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        del frame
        logging.info("%s: saving after this step.", signal.Signals(number).name)
        stopped.set()

    before = {one: signal.signal(one, stop) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
