"""Weights that come with the package; "compact" is the default."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from delf_tf.artifacts import file_sha256
from delf_tf.checks import invalid, require_choice

_FOLDER = Path(__file__).with_name("weights")


class Shipped(NamedTuple):
    """One weights file of the package; its card: docs/compact_model.md.

    Attributes:
      file: in the folder delf_tf/models/zoo/weights.
      sha256: of the file.
      model: a name of create_model.
      config: the config that uses it.
      licence: of the weights.
    """

    file: str
    sha256: str
    model: str
    config: str
    licence: str


SHIPPED: dict[str, Shipped] = {
    "compact": Shipped(
        file="compact.npz",
        sha256="f25ea18143910e3c80e864c26ecc55d2fc911bc486da09e5db8300d36ceb6c27",
        model="compact_efficientnet_lite2",
        config="compact",
        licence="Apache-2.0 (NOTICE names its sources)",
    ),
}


def shipped_weights(name: str) -> Path:
    """Returns the path of a weights file of the package, its checksum compared.

    Raises:
      InputError: no such name, or the file is not the one that was shipped.
    """
    require_choice("weights", name, SHIPPED)
    record = SHIPPED[name]
    path = _FOLDER / record.file
    found = file_sha256(path) if path.is_file() else "no file"
    if found != record.sha256:
        raise invalid(
            "The package's weights must be the file that was shipped.",
            hint="Install the package again.",
            path=path,
            sha256=found,
        )
    return path
