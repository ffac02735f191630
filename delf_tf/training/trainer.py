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
from delf_tf.models.zoo import checkpoint
from delf_tf.training import run_state, throughput
from delf_tf.training.metrics_log import MetricsLog
from delf_tf.training.objective import Objective
from delf_tf.training.optimizers import Optimizer, plain_variable
from delf_tf.training.strategy import worker_of


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
            require(
                getattr(self, name) > 0, f"{name} must be positive.", **{name: getattr(self, name)}
            )
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
        self._objective, self._optimizer, self._pipeline = objective, optimizer, pipeline
        self._folder = Path(output_dir)
        self._learning_rate, self._limits = learning_rate, limits
        self._strategy = strategy or tf.distribute.get_strategy()
        self._evaluate, self._seed = evaluate, seed
        self._peak_flops = peak_flops
        self._fingerprint, self._provenance = fingerprint, dict(provenance or {})
        self._is_chief = worker_of(self._strategy)[0] == 0
        single = self._strategy.num_replicas_in_sync == 1
        self._train_step = tf.function(self._global_step, jit_compile=jit_compile and single)
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
        pending: list[tuple[int, dict[str, tf.Tensor]]] = []
        with self._stop_on_signals():
            started = time.monotonic() - self._seconds
            batches = self._endless_batches()
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
                if self._limits.eval_interval and self._due(self._limits.eval_interval):
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
        return self._step % interval == 0

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

    def _global_step(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        learning_rate: tf.Tensor,
        count: tf.Tensor,
        seed: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """One step on all replicas; pure TensorFlow of static shapes, as XLA and TPUs need."""

        def replica(images: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
            return self._replica_step(images, labels, learning_rate, count, seed)

        results = self._strategy.run(replica, args=(images, labels))
        add = tf.distribute.ReduceOp.SUM
        summed = {k: self._strategy.reduce(add, v, axis=None) for k, v in results.items()}
        summed["gradient_norm"] /= self._strategy.num_replicas_in_sync
        return summed

    def _replica_step(
        self,
        images: tf.Tensor,
        labels: tf.Tensor,
        *scalars: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        learning_rate, count, seed = scalars
        share = 1.0 / self._pipeline.batch_size
        with tf.GradientTape() as tape:
            losses, correct = self._objective(images, labels, seed)
            # Every loss is a mean over the global batch, so that no weight depends on replicas.
            means = {name: tf.reduce_sum(loss) * share for name, loss in losses.items()}
            total = tf.add_n([self._objective.weights[name] * one for name, one in means.items()])
        gradients = tape.gradient(total, self._optimizer.trained)
        norm = self._optimizer.apply(gradients, learning_rate, count)
        accuracy = tf.reduce_sum(correct) * share
        return {"loss": total, **_losses(means), "accuracy": accuracy, "gradient_norm": norm}

    def _endless_batches(self) -> Iterator[Any]:
        """Yields batches; datasets of mined tuples end with their epoch and are asked for anew."""
        while True:
            yield from self._batches()

    def _batches(self) -> Any:
        if self._strategy.num_replicas_in_sync == 1 and worker_of(self._strategy)[1] == 1:
            return self._pipeline.dataset(self._step)
        replicas = self._strategy.num_replicas_in_sync

        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return self._pipeline.dataset(
                self._step,
                worker=context.input_pipeline_id,
                num_workers=context.num_input_pipelines,
                num_replicas=replicas // context.num_input_pipelines,
            )

        return self._strategy.distribute_datasets_from_function(of_worker)

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches)
        except tf.errors.OpError as error:
            reason = " ".join(str(error.message).split())[:300]
            raise invalid(
                "Every record of a batch must be readable.",
                hint='Name and leave out damaged records with check_records: "full" and '
                "max_bad_records in the config's training section.",
                error=TrainingError,
                step=self._step,
                reason=reason,
            ) from None

    def _flush(
        self,
        pending: list[tuple[int, dict[str, tf.Tensor]]],
        meter: throughput.Meter,
        log: MetricsLog | None,
    ) -> None:
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

    def _check(self, pending: list[tuple[int, dict[str, tf.Tensor]]]) -> None:
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
                "Look at: labels (relabeling.csv), the learning rate and gradient_norm in "
                "metrics.csv, the margin (train with arcface_margin: 0 first), and whether the "
                "initial weights were loaded.",
                means["accuracy"],
                self._step,
                means["loss"],
                math.log(max(num_classes, 2)),
            )

    def _named(self) -> dict[str, tf.Variable]:
        named = {path: plain_variable(v) for path, v in self._objective.variables.items()}
        named.update({f"optimizer/{name}": v for name, v in self._optimizer.state.items()})
        return named

    def _save(self) -> None:
        # Every worker reads: variables kept one a replica are reduced over all of them.
        arrays = {name: variable.read_value().numpy() for name, variable in self._named().items()}
        if self._is_chief:
            facts = {"seconds": self._seconds if self._limits.max_seconds else 0.0}
            facts["best"] = None if math.isinf(self._best) else self._best
            state = run_state.RunState(self._step, arrays, self._fingerprint, facts)
            run_state.save_state(self._folder / "checkpoints", state)
            self._write_weights("weights.npz", arrays)

    def _write_weights(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        prefix, average = "model/", "optimizer/ema/model/"
        chosen = {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}
        chosen.update({k[len(average) :]: v for k, v in arrays.items() if k.startswith(average)})
        facts = {
            **self._provenance,
            "steps": self._step,
            "averaged": bool(self._optimizer.averages),
        }
        options = self._objective.model.options
        checkpoint.write_arrays(self._folder / name, chosen, options, facts)

    def _restore(self) -> None:
        states = run_state.list_states(self._folder / "checkpoints")
        if not states:
            return
        state = run_state.load_state(states[-1])
        named = self._named()
        same = state.fingerprint == self._fingerprint and set(state.arrays) == set(named)
        require(
            same,
            "The output folder must hold no other run.",
            hint="Choose another --output_dir, or delete it to start anew.",
            found=str(states[-1]),
        )
        for name, variable in named.items():
            variable.assign(state.arrays[name])
        self._step = state.step
        self._seconds = float(state.facts["seconds"])
        self._best = -math.inf if state.facts["best"] is None else float(state.facts["best"])
        logging.info("Going on from %s.", states[-1])

    def _run_evaluation(self, log: MetricsLog | None) -> None:
        with self._averaged():
            metrics = dict(self._evaluate() if self._evaluate is not None else {})
        if not metrics or log is None:
            return
        log.write(self._step, metrics)
        first = next(iter(metrics.values()))
        if first > self._best:
            self._best = first
            arrays = {name: one.read_value().numpy() for name, one in self._named().items()}
            self._write_weights("best_weights.npz", arrays)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Puts the moving average into the model for a while."""
        variables = self._objective.variables
        kept = {}
        for path, average in self._optimizer.averages.items():
            variable = plain_variable(variables[path])
            kept[path] = variable.read_value()
            variable.assign(average.read_value())
        try:
            yield
        finally:
            for path, value in kept.items():
                plain_variable(variables[path]).assign(value)

    @contextlib.contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        def stop(number: int, frame: object) -> None:
            del frame
            logging.info("%s: saving after this step.", signal.Signals(number).name)
            self._stop.set()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, stop) for one in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def _losses(means: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {f"{name}_loss": value for name, value in means.items()}
