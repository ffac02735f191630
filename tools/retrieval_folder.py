"""What `retrieve` leaves beside its results, so that its folder can be opened without flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import text_format

from delf_tf import artifacts, config
from delf_tf.checks import invalid, require
from delf_tf.protos import experiment_pb2

_NAME = "retrieval.json"
_MAX_BYTES = 1 << 20


class Retrieved(NamedTuple):
    """An output folder of `retrieve`: its experiment, features, and where the images are."""

    message: experiment_pb2.Experiment
    store: Path
    images_dir: Path


def write(output_dir: Path, message: experiment_pb2.Experiment, images_dir: Path | None) -> None:
    """Writes down how the folder was made; nothing if its images are not those of one folder."""
    if images_dir is not None:
        facts = {
            "images_dir": str(images_dir.resolve()),
            "config": text_format.MessageToString(message),
        }
        artifacts.write_json(output_dir / _NAME, facts)


def is_one(path: artifacts.StrPath) -> bool:
    """Whether `path` is an output folder of `retrieve`."""
    return Path(path, _NAME).is_file()


def read(path: artifacts.StrPath) -> Retrieved:
    """Reads what `write` wrote.

    Raises:
      InputError: damaged, or too large.
    """
    file = Path(path, _NAME)
    require(file.stat().st_size <= _MAX_BYTES, "The file is too large.", path=file)
    try:
        facts: Any = json.loads(file.read_text(encoding="utf-8"))
        text, images_dir = str(facts["config"]), Path(str(facts["images_dir"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise invalid(
            "The folder must be one that retrieve made.",
            hint="Run retrieve again; its features are kept.",
            path=file,
            fault=str(error),
        ) from None
    message = config.parse(text, experiment_pb2.Experiment, source=str(file))
    return Retrieved(message, Path(path, "database"), images_dir)
