"""Metrics of a run: a plain CSV, TensorBoard's event files, and the log."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow as tf
from absl import logging

from delf_tf import artifacts
from delf_tf.checks import invalid

# Of a number in the file; the limit of the module csv is one of the whole process.
_MAX_CHARACTERS = 64


class MetricsLog:
    """Appends one line of scalars at a time; a resumed run continues after its checkpoint."""

    def __init__(self, folder: artifacts.StrPath, start_step: int):
        """Opens `metrics.csv` and `tensorboard/` in `folder`.

        Args:
          folder: made if missing.
          start_step: lines of later steps, of a run killed after its last checkpoint, are dropped.

        Raises:
          InputError: a damaged `metrics.csv`, or a folder that cannot be written to.
        """
        self._path = Path(folder) / "metrics.csv"
        self._rows = [row for row in _read(self._path) if int(row["step"]) <= start_step]
        self._events = Path(folder) / "tensorboard"
        with self._written():
            self._events.mkdir(parents=True, exist_ok=True)
            self._writer = tf.summary.create_file_writer(str(self._events))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records scalars of a step; they stay if the run is killed right after."""
        self._rows.append({"step": str(step), **{k: f"{v:.6g}" for k, v in metrics.items()}})
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(self._rows)
        artifacts.write_text(self._path, text.getvalue())
        with self._written(), self._writer.as_default():
            for name, value in metrics.items():
                _scalar(name, float(value), step)
            self._writer.flush()
        logging.info("step %d: %s", step, ", ".join(f"{k} {v:.4g}" for k, v in metrics.items()))

    def close(self) -> None:
        """Closes TensorBoard's file."""
        with self._written():
            self._writer.close()

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        """Turns TensorFlow's errors of the file system into ours."""
        try:
            yield
        except tf.errors.OpError as error:
            raise invalid(
                f"{self._events} must be writable, with room on its disk.",
                hint="Mend that and run the same command again: the last checkpoint is kept.",
                reason=error.message,
            ) from None


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
        if all(None not in row and int(row["step"]) >= 0 for row in rows) and all(
            len(value) <= _MAX_CHARACTERS for row in rows for value in row.values()
        ):
            return rows
        fault = "a line of another length, a step below 0, or a value that is too long"
    except (csv.Error, KeyError, ValueError) as error:
        fault = f"{type(error).__name__}: {error}"
    raise invalid(
        "The metrics of a run must be as the training wrote them.",
        hint="Move the file away: training goes on from its checkpoint, with a new one.",
        path=path,
        fault=fault,
    )


def _scalar(name: str, value: float, step: int) -> None:
    # tf.summary.scalar needs the package tensorboard, which newer TensorFlow does not bring.
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    )
    metadata.data_class = 1  # DATA_CLASS_SCALAR
    tf.summary.write(name, tf.constant(value, tf.float32), step, metadata)
