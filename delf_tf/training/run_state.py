"""Checkpoints of a training run: one file with all arrays, the step and the fingerprint."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf import artifacts, npz
from delf_tf.checks import invalid

FORMAT = "delf_tf training state 1"
_HEADER = "header.json"
_NAME = re.compile(r"step-(?P<step>\d{9})\.npz")
_MAX_BYTES = 1 << 36
_HINT = "Delete it: training goes on from the one before."


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


def save_state(folder: artifacts.StrPath, state: RunState, keep: int = 2) -> Path:
    """Writes a checkpoint, removes all but the newest `keep`, and returns its path."""
    path = Path(folder) / f"step-{state.step:09d}.npz"
    header = {
        "format": FORMAT,
        "step": state.step,
        "fingerprint": state.fingerprint,
        "facts": dict(state.facts),
    }
    npz.write_with_text(path, state.arrays, _HEADER, json.dumps(header, sort_keys=True))
    for old in list_states(folder)[:-keep]:
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
