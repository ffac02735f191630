"""The files of a training run: checkpoints, each with all that the run goes on by, and weights."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from delf_tf import artifacts, npz
from delf_tf.checks import invalid, require
from delf_tf.models.zoo import checkpoint
from delf_tf.training.objective import Objective
from delf_tf.training.optimizers import Optimizer, plain_variable

FORMAT = "delf_tf training state 1"
_HEADER = "header.json"
_NAME = re.compile(r"step-(?P<step>\d{9})\.npz")
_MAX_BYTES = 1 << 36
_NUM_KEPT = 2
_MODEL, _AVERAGE = "model/", "optimizer/ema/model/"
_HINT = "Delete it: training continues from the previous checkpoint."


@dataclasses.dataclass(frozen=True, eq=False)
class RunState:
    """Everything that a run needs to go on as if it had not stopped.

    Attributes:
      step: steps taken; it is also the position in the data.
      arrays: weights, optimizer slots and averages by name.
      fingerprint: of the configuration and the data; another one is refused.
      facts: JSON-able: seconds trained (of a run limited by time) and the best evaluation.
    """

    step: int
    arrays: Mapping[str, np.ndarray]
    fingerprint: str
    facts: Mapping[str, Any]


def save_state(folder: artifacts.StrPath, state: RunState) -> Path:
    """Writes a checkpoint, removes all but the newest two, and returns its path."""
    path = Path(folder) / f"step-{state.step:09d}.npz"
    header = {
        "format": FORMAT,
        "step": state.step,
        "fingerprint": state.fingerprint,
        "facts": dict(state.facts),
    }
    npz.write_with_text(path, state.arrays, _HEADER, json.dumps(header, sort_keys=True))
    for old in list_states(folder)[:-_NUM_KEPT]:
        old.unlink()
    return path


def load_state(path: artifacts.StrPath) -> RunState:
    """Reads a checkpoint.

    Raises:
      InputError: not a checkpoint of ours, or a damaged one.
    """
    with npz.NpzReader(path, max_bytes=_MAX_BYTES, hint=_HINT) as reader:
        arrays = {name: reader.array(name) for name in reader.names}
        text = reader.text(_HEADER)
    try:
        header = json.loads(text)
        step, mark, facts = header["step"], header["fingerprint"], header["facts"]
        fits = header["format"] == FORMAT and isinstance(step, int)
        fits = fits and isinstance(mark, str) and isinstance(facts, dict)
    except (ValueError, LookupError, TypeError, RecursionError):
        fits = False
    if not fits:
        raise invalid("A checkpoint must be of this format.", hint=_HINT, path=Path(path))
    return RunState(step, arrays, mark, facts)


def list_states(folder: artifacts.StrPath) -> list[Path]:
    """Returns the checkpoints in a folder, oldest first."""
    if not Path(folder).is_dir():
        return []
    return sorted(path for path in Path(folder).iterdir() if _NAME.fullmatch(path.name))


class RunFiles:
    """Writes and reads the files of a run: `checkpoints/step-N.npz` and weights."""

    def __init__(
        self,
        folder: artifacts.StrPath,
        objective: Objective,
        optimizer: Optimizer,
        *,
        fingerprint: str,
        provenance: Mapping[str, Any],
    ):
        """Keeps what the files are of; nothing is read or written yet.

        Args:
          folder: of the run.
          objective: model and losses.
          optimizer: of the objective's variables.
          fingerprint: see RunState.
          provenance: JSON-able facts kept in every weights file.
        """
        self._folder, self._objective, self._optimizer = Path(folder), objective, optimizer
        self._fingerprint, self._provenance = fingerprint, dict(provenance)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all values by name; every worker must ask, as replicas' own are reduced."""
        return {name: one.read_value().numpy() for name, one in self._variables().items()}

    def save(self, step: int, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Writes a checkpoint and `weights.npz`."""
        state = RunState(step, arrays, self._fingerprint, facts)
        save_state(self._folder / "checkpoints", state)
        self.write_weights("weights.npz", step, arrays)

    def write_weights(self, name: str, step: int, arrays: Mapping[str, np.ndarray]) -> Path:
        """Writes a weights file: the moving average where there is one; returns its path."""
        chosen = {k[len(_MODEL) :]: v for k, v in arrays.items() if k.startswith(_MODEL)}
        chosen |= {k[len(_AVERAGE) :]: v for k, v in arrays.items() if k.startswith(_AVERAGE)}
        averaged = bool(self._optimizer.averages)
        facts = {**self._provenance, "steps": step, "averaged": averaged}
        options = self._objective.model.options
        return checkpoint.write_arrays(self._folder / name, chosen, options, facts)

    def restore(self) -> RunState | None:
        """Sets all variables to the last checkpoint, and returns it; None if there is none.

        Raises:
          InputError: the folder holds another run, or a damaged checkpoint.
        """
        states = list_states(self._folder / "checkpoints")
        if not states:
            return None
        state, variables = load_state(states[-1]), self._variables()
        require(
            state.fingerprint == self._fingerprint and set(state.arrays) == set(variables),
            "The output folder must hold no other run.",
            hint="Choose another --output_dir, or delete it to start anew.",
            found=str(states[-1]),
        )
        for name, variable in variables.items():
            variable.assign(state.arrays[name])
        logging.info("Going on from %s.", states[-1])
        return state

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
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

    def _variables(self) -> dict[str, tf.Variable]:
        found = {path: plain_variable(one) for path, one in self._objective.variables.items()}
        slots = self._optimizer.state.items()
        return {**found, **{f"optimizer/{name}": slot for name, slot in slots}}
