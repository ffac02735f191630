"""A network as files: OpenVINO's own form, and a description beside it.

A folder holds network.xml and network.bin, OpenVINO's own form, and network.json. It is a program,
as a SavedModel is: load only what you trust.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from delf_tf import artifacts
from delf_tf.checks import InputError, invalid, require
from delf_tf.extraction.backends import openvino_runtime
from delf_tf.extraction.backends.float_layers import float_layers, mark
from delf_tf.extraction.backends.network import NetworkFacts
from delf_tf.extraction.backends.precision import FLOAT32

if TYPE_CHECKING:
    from delf_tf.models.retrieval_model import RetrievalModel

FORMAT_VERSION = 2
XML, WEIGHTS, FACTS = "network.xml", "network.bin", "network.json"
_MAX_FACTS_BYTES = 1 << 22


@dataclasses.dataclass(frozen=True)
class NetworkFolder:
    """The content of network.json.

    Attributes:
      path: the folder.
      facts: of the network.
      fingerprint: of the model and its weights.
      weights_dtype: "float32", or "int8" of a quantised network.
      calibration: of a quantised network, see quantization.quantize.
      content: of network.xml and network.bin, hex.
    """

    path: Path
    facts: NetworkFacts
    fingerprint: str
    weights_dtype: str
    calibration: dict[str, Any]
    content: str

    def read(self) -> Any:
        """Returns the network as openvino.Model.

        Raises:
          InputError: the files are not those that network.json was written for, or damaged.
        """
        require(
            content_fingerprint(self.path) == self.content,
            f"{XML} and {WEIGHTS} must be those that {FACTS} was written for.",
            hint="Make the folder again.",
            path=self.path,
        )
        try:
            return openvino_runtime.core().read_model(str(self.path / XML))
        except RuntimeError as error:
            raise invalid(
                "The network must be whole.",
                hint=f"OpenVINO says: {' '.join(str(error).split())[:300]}",
                path=self.path,
            ) from None


def export_network(
    model: RetrievalModel, path: artifacts.StrPath, *, fingerprint: str
) -> NetworkFolder:
    """Writes a model, batch normalisation folded in, as a folder that OpenVINO reads.

    It goes through a SavedModel, OpenVINO's own way from TensorFlow. The network takes `images`
    float32 [B, H, W, 3], RGB, 0..255.

    Args:
      model: of create_model; needs TensorFlow.
      path: the folder to make; what is there is replaced.
      fingerprint: of the model and its weights.
    """
    from delf_tf.extraction.backends import conversion  # noqa: PLC0415 - imports TensorFlow

    facts = conversion.network_facts(model)
    with tempfile.TemporaryDirectory() as folder:
        saved = conversion.write_saved_model(model, Path(folder) / "model")
        network = openvino_runtime.core().read_model(str(saved))
        return write_network(network, path, facts, fingerprint=fingerprint)


def write_network(
    network: Any,
    path: artifacts.StrPath,
    facts: NetworkFacts,
    *,
    fingerprint: str,
    weights_dtype: str = FLOAT32,
    calibration: dict[str, Any] | None = None,
) -> NetworkFolder:
    """Writes a network and its facts; the folder appears when it is complete.

    Args:
      network: openvino.Model.
      path: the folder to make; what is there is replaced.
      facts: of the network.
      fingerprint: of the model and its weights.
      weights_dtype: see NetworkFolder.
      calibration: see NetworkFolder.
    """
    openvino = openvino_runtime.load()
    with artifacts.atomic_folder(path) as folder:
        folder.mkdir()
        openvino.save_model(network, str(folder / XML), compress_to_fp16=False)
        mark(folder / XML, float_layers(network))
        content = {
            "format_version": FORMAT_VERSION,
            "facts": dataclasses.asdict(facts),
            "fingerprint": fingerprint,
            "weights_dtype": weights_dtype,
            "calibration": calibration or {},
            "content": content_fingerprint(folder),
            "openvino": openvino.__version__,
        }
        artifacts.write_json(folder / FACTS, content)
    return read_folder(path)


def read_folder(path: artifacts.StrPath, fingerprint: str | None = None) -> NetworkFolder:
    """Reads the description of the network in a folder, not yet the network.

    Args:
      path: the folder.
      fingerprint: of the model that it must be of; None for any.

    Raises:
      InputError: no such folder, a damaged one, or another model's.
    """
    path = Path(path)
    require(
        (path / FACTS).is_file(),
        f"A network's folder must hold {FACTS}.",
        hint="`delf_tf export --images_dir` writes one.",
        path=path,
    )
    folder = _parse(path)
    require(
        fingerprint in (None, folder.fingerprint),
        "The network must be of the model and weights of this experiment.",
        hint="Quantise this experiment's model: delf_tf export --images_dir.",
        path=path,
        network=folder.fingerprint,
        experiment=fingerprint,
    )
    return folder


def _parse(path: Path) -> NetworkFolder:
    try:
        raw = (path / FACTS).read_bytes()
        require(len(raw) <= _MAX_FACTS_BYTES, f"{FACTS} must be at most 4 MiB.", path=path)
        content = json.loads(raw)
        require(
            content["format_version"] == FORMAT_VERSION,
            f"A network's folder must be of version {FORMAT_VERSION}.",
            hint="Make it again with this version of delf_tf.",
            path=path,
            format_version=content["format_version"],
        )
        facts = content["facts"]
        for name in ("output_names_available", "local_offsets"):
            facts[name] = tuple(facts[name])
        facts["tensors"] = {name: tuple(names) for name, names in facts["tensors"].items()}
        names = ("fingerprint", "weights_dtype", "calibration", "content")
        return NetworkFolder(path, NetworkFacts(**facts), **{name: content[name] for name in names})
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, OSError):
        raise invalid(
            f"{FACTS} must be as delf_tf wrote it.", hint="Make the folder again.", path=path
        ) from None


def content_fingerprint(folder: Path) -> str:
    """Returns the fingerprint of the network's two files.

    Raises:
      InputError: one is missing.
    """
    missing = [name for name in (XML, WEIGHTS) if not (folder / name).is_file()]
    require(
        not missing,
        f"A network's folder must hold {' and '.join(missing)}.",
        hint="Make it again.",
        path=folder,
    )
    return artifacts.fingerprint(
        *(artifacts.file_fingerprint(folder / name) for name in (XML, WEIGHTS))
    )
