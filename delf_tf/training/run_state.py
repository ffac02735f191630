"""Checkpoints: all arrays of a run and where it stands, in one file that appears whole."""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf import artifacts
from delf_tf.checks import invalid, require

FORMAT = "delf_tf training state 1"
_HEADER = "header.json"
_NAME = re.compile(r"step-(?P<step>\d{9})\.npz")
# What zipfile, zlib, json and NumPy raise on damaged bytes; RuntimeError covers what zipfile takes
# for an encryption or a compression that it does not know, and JSON that is nested too deep.
_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    SyntaxError,
    MemoryError,
)
# A fixed date, so that equal states are equal files.
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class RunState:
    """Everything that a run needs to go on as if it had not stopped.

    Attributes:
      step: steps taken; it is also the position in the data.
      arrays: weights, optimizer slots and averages by name.
      fingerprint: of the configuration and the data; another one is refused.
      facts: JSON-able; seconds trained, best evaluation, the config's text.
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
    with artifacts.atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(_HEADER, _DATE), json.dumps(header, sort_keys=True))
        for name in sorted(state.arrays):
            array = np.asarray(state.arrays[name], order="C")
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True) as one:
                np.lib.format.write_array(one, array)
    for old in list_states(folder)[:-keep]:
        old.unlink()
    return path


def load_state(path: artifacts.StrPath) -> RunState:
    """Reads a checkpoint.

    Raises:
      InputError: not a checkpoint of ours, or a damaged one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            header = json.loads(archive.read(_HEADER))
            require(header["format"] == FORMAT, "A checkpoint must be of this format.", **header)
            arrays = {}
            for name in archive.namelist():
                if name != _HEADER:
                    with archive.open(name) as one:
                        arrays[name[: -len(".npy")]] = np.lib.format.read_array(one)
                        # The checksum is compared only when the end is reached.
                        require(not one.read(1), "An array must end with its file.", array=name)
            return RunState(int(header["step"]), arrays, header["fingerprint"], header["facts"])
    except _FAULTS as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise invalid(
            "A checkpoint must be whole.",
            hint="Delete it: training goes on from the one before.",
            path=str(path),
            reason=reason,
        ) from None


def list_states(folder: artifacts.StrPath) -> list[Path]:
    """Returns the checkpoints in a folder, oldest first."""
    if not Path(folder).is_dir():
        return []
    return sorted(path for path in Path(folder).iterdir() if _NAME.fullmatch(path.name))
