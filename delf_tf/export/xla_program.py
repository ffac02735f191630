"""Runs an extractor that was exported as an XLA program, without TensorFlow: JAX is the client."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf import artifacts
from delf_tf.checks import InputError, invalid, require
from delf_tf.features.tensor_file import TensorFile

# The folder's files.
METADATA, PROGRAM, WEIGHTS = "program.json", "program.hlo.pb", "weights.safetensors"
FORMAT_VERSION = 1
IMAGES = "images"

# What numbers are in a program, and in which of the same width the weights' file keeps them.
STORED = {"float32": "<f4", "bfloat16": "<u2", "int32": "<u4", "uint8": "u1"}

_MAX_METADATA_BYTES = 4 << 20
_MAX_PROGRAM_BYTES = 256 << 20
_MAX_WEIGHTS_BYTES = 8 << 30
_MAX_ITEMS = 1 << 36
_AGAIN = "Export it again: delf_tf export --format=hlo."


class XlaProgram:
    """A compiled program with its weights on a device.

    Attributes:
      metadata: what the exporter wrote: settings, fingerprint, versions.
      batch_size: images that it takes at once.
      image_height: of each image, pixels.
      image_width: likewise.
      device: the JAX device that it runs on.
      memory_bytes: what the compiler says the program takes of the device's memory, weights,
        images and results included, or None if it does not say.
    """

    def __init__(self, executable: Any, weights: list[Any], device: Any, metadata: dict[str, Any]):
        """Keeps what `load_program` made."""
        self._executable, self._weights = executable, weights
        self.device, self.metadata = device, metadata
        self.batch_size, self.image_height, self.image_width, _ = metadata["arguments"][0]["shape"]
        self.memory_bytes = _memory_bytes(executable)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Extracts features.

        Args:
          images: uint8 [N, H, W, 3], RGB; H and W are the program's, N at most its batch size. A
            smaller batch costs as much as a full one.

        Returns:
          What Extractor.batch gives, N rows each: "global_descriptor" [N, D], L2-normalised; for
          local features "num_features" int32 [N], "locations" [N, K, 2], (y, x) pixels of the
          image, "descriptors" [N, K, D], "scores" and "scales" [N, K]; rows from num_features on
          are zero.

        Raises:
          InputError: other images.
        """
        images = np.asarray(images)
        size = (self.image_height, self.image_width, 3)
        require(
            images.dtype == np.uint8 and images.ndim == 4 and images.shape[1:] == size,
            f"images must be uint8 of shape [N, {size[0]}, {size[1]}, 3], as the program was "
            "exported.",
            images=images,
        )
        num_images = len(images)
        require(
            num_images <= self.batch_size,
            f"images must be at most {self.batch_size}, the program's batch size.",
            images=images,
        )
        if not num_images:
            return {one["name"]: _empty(one) for one in self.metadata["outputs"]}
        batch = np.zeros((self.batch_size, *size), np.uint8)
        batch[:num_images] = images
        results = self.execute(self.put(batch))
        return {name: np.array(values)[:num_images] for name, values in results.items()}

    def put(self, batch: np.ndarray) -> Any:
        """Returns a full batch uint8 [B, H, W, 3] as an array on the device."""
        return _jax().device_put(batch, self.device)

    def execute(self, batch: Any) -> dict[str, Any]:
        """Runs the program on a batch that is on the device; its results stay there."""
        results = self._executable.execute([batch, *self._weights])
        return dict(zip((one["name"] for one in self.metadata["outputs"]), results))


def load_program(directory: artifacts.StrPath) -> XlaProgram:
    """Loads what `delf_tf export --format=hlo` wrote and compiles it for JAX's first device.

    The files are checked against each other. A program is a program nevertheless: run only what
    you trust. TensorFlow is not needed.

    Args:
      directory: the folder.

    Raises:
      InputError: no such folder, a damaged one, files of two exports, JAX is missing or does not
        take the program.
    """
    directory = Path(directory)
    metadata = read_metadata(directory)
    program = _read_program(directory, metadata)
    weights = _read_weights(directory, metadata)
    jax = _jax()
    device = jax.local_devices()[0]
    try:
        executable = _compile(program, device, metadata)
        placed = [jax.device_put(values, device) for values in weights]
        return XlaProgram(executable, placed, device, metadata)
    except InputError:
        raise
    except Exception as error:  # A client of another version raises nearly everything.
        raise invalid(
            "This XLA client must take the program.",
            hint="A JAX that is as new as the exporting TensorFlow does. XLA says: "
            + " ".join(str(error).split())[:300],
            directory=directory,
            jax=jax.__version__,
            exported_by=metadata.get("versions"),
        ) from None


def read_metadata(directory: Path) -> dict[str, Any]:
    """Returns the checked program.json of an exported program; loads nothing.

    Raises:
      InputError: see `load_program`.
    """
    path = directory / METADATA
    require(
        path.is_file(),
        f"The folder must hold {METADATA}, as those of `delf_tf export --format=hlo` do.",
        directory=directory,
    )
    require(path.stat().st_size <= _MAX_METADATA_BYTES, f"{METADATA} must be 4 MiB at most.")
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        version = metadata["format_version"]
        if version == FORMAT_VERSION:
            _check(metadata)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        reason = str(error) if isinstance(error, InputError) else type(error).__name__
        raise invalid(f"{METADATA} must be whole.", hint=_AGAIN, path=path, reason=reason) from None
    require(
        version == FORMAT_VERSION,
        f"The program's format must be version {FORMAT_VERSION}.",
        hint=_AGAIN,
        path=path,
        format_version=version,
    )
    return metadata


def _check(metadata: dict[str, Any]) -> None:
    """Requires arguments and outputs that can be: bounded shapes, known numbers."""
    for one in [*metadata["arguments"], *metadata["outputs"]]:
        shape = one["shape"]
        sizes = all(isinstance(axis, int) and axis >= 0 for axis in shape)
        require(
            isinstance(one["name"], str)
            and one["dtype"] in STORED
            and sizes
            and math.prod(shape) <= _MAX_ITEMS,
            "Each array must have a name, a shape and a dtype that is known.",
            array=one,
        )
    first, *weights = metadata["arguments"]
    shape = first["shape"]
    images = first["name"] == IMAGES and first["dtype"] == "uint8" and min(shape) >= 1
    require(
        images and len(shape) == 4 and shape[3] == 3,
        "The first argument must be images, uint8 [B, H, W, 3].",
        argument=first,
    )
    said = {"precision": str, "image_scales": list, "fingerprint": str, "model": dict}
    require(
        all(isinstance(metadata[name], kind) for name, kind in {**said, "versions": dict}.items()),
        f"{METADATA} must say what made it.",
    )
    require(
        all(one["shape"][:1] == shape[:1] for one in metadata["outputs"]) and metadata["outputs"],
        "Each output must have a row for each image.",
        outputs=metadata["outputs"],
    )
    names = [one["name"] for one in weights]
    require(
        len(set(names)) == len(names), "Weights must have unlike names.", num_weights=len(names)
    )
    num_bytes = sum(math.prod(one["shape"]) * _itemsize(one) for one in weights)
    require(
        num_bytes <= _MAX_WEIGHTS_BYTES,
        f"Weights must take {_MAX_WEIGHTS_BYTES} bytes at most.",
        num_bytes=num_bytes,
    )


def _read_program(directory: Path, metadata: dict[str, Any]) -> bytes:
    path = directory / PROGRAM
    require(path.is_file(), f"The folder must hold {PROGRAM}.", hint=_AGAIN, directory=directory)
    require(
        path.stat().st_size <= _MAX_PROGRAM_BYTES,
        f"{PROGRAM} must be {_MAX_PROGRAM_BYTES >> 20} MiB at most.",
        path=path,
    )
    require(
        artifacts.file_fingerprint(path) == metadata.get("program_fingerprint"),
        f"{PROGRAM} must be the file that was exported: its checksum differs.",
        hint=_AGAIN,
        path=path,
    )
    return path.read_bytes()


def _read_weights(directory: Path, metadata: dict[str, Any]) -> list[np.ndarray]:
    file = TensorFile(directory / WEIGHTS)
    require(
        file.metadata.get("program_fingerprint") == metadata["program_fingerprint"],
        f"{WEIGHTS} must be of the same export as {PROGRAM}.",
        hint=_AGAIN,
        directory=directory,
    )
    with file.open() as descriptor:
        return [_read_array(file, descriptor, one) for one in metadata["arguments"][1:]]


def _read_array(file: TensorFile, descriptor: int, one: dict[str, Any]) -> np.ndarray:
    name, shape = one["name"], tuple(one["shape"])
    found = file.shapes.get(name), file.dtypes.get(name)
    require(
        found == ((math.prod(shape),), np.dtype(STORED[one["dtype"]])),
        f"{WEIGHTS} must hold each argument in its shape and dtype.",
        hint=_AGAIN,
        argument=one,
    )
    values = file.read_checked(descriptor, name)
    return values.view(_numpy_dtype(one["dtype"])).reshape(shape)


def _numpy_dtype(name: str) -> Any:
    if name != "bfloat16":
        return np.dtype(name)
    _jax()
    import ml_dtypes  # noqa: PLC0415 - comes with JAX

    return np.dtype(ml_dtypes.bfloat16)


def _itemsize(one: dict[str, Any]) -> int:
    return np.dtype(STORED[one["dtype"]]).itemsize


def _empty(one: dict[str, Any]) -> np.ndarray:
    return np.zeros((0, *one["shape"][1:]), _numpy_dtype(one["dtype"]))


def _jax() -> Any:
    try:
        import jax  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise invalid(
            "An XLA program needs JAX, the client that compiles and runs it.",
            hint='pip install "delf_tf[xla]", or the jax of your accelerator, such as '
            f'"jax[cuda12]" or "jax[tpu]". Python says: {error}',
        ) from None
    return jax


def _compile(program: bytes, device: Any, metadata: dict[str, Any]) -> Any:
    from jaxlib import xla_client  # noqa: PLC0415 - an extra

    said = [
        [(tuple(one["shape"]), _numpy_dtype(one["dtype"])) for one in metadata[part]]
        for part in ("arguments", "outputs")
    ]
    require(
        said == _arrays(xla_client.XlaComputation(program).program_shape()),
        f"{PROGRAM} must take and give the arrays that {METADATA} lists.",
        hint=_AGAIN,
    )
    module, options = _to_stablehlo(program, xla_client), xla_client.CompileOptions()
    client = device.client
    # JAX renamed it in 2025.
    if hasattr(client, "compile_and_load"):
        return client.compile_and_load(module, [device], options)
    return client.compile(module, options)


def _arrays(signature: Any) -> list[list[tuple[tuple[int, ...], Any]]]:
    """Returns shape and dtype of what a program takes, and of what it gives."""
    result = signature.result_shape()
    results = result.tuple_shapes() if result.is_tuple() else [result]
    return [
        [(tuple(one.dimensions()), one.numpy_dtype()) for one in part]
        for part in (signature.parameter_shapes(), results)
    ]


def _to_stablehlo(program: bytes, xla_client: Any) -> bytes | str:
    """Returns the HLO as the module that JAX's clients compile."""
    from jax.extend import mlir  # noqa: PLC0415 - an extra

    if hasattr(mlir, "hlo_to_stablehlo"):
        return mlir.hlo_to_stablehlo(program)
    translate = xla_client._xla.mlir
    if hasattr(translate, "hlo_to_stablehlo"):
        return translate.hlo_to_stablehlo(program)
    return translate.xla_computation_to_mlir_module(xla_client.XlaComputation(program))


def _memory_bytes(executable: Any) -> int | None:
    """Returns what the compiler planned; some clients tell nothing."""
    try:
        plan = executable.get_compiled_memory_stats()
    except Exception:  # Clients raise their own kinds where they have no plan.
        return None
    kinds = ("argument", "output", "temp", "generated_code")
    return sum(getattr(plan, f"{kind}_size_in_bytes") for kind in kinds)
