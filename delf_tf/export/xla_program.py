"""Runs an extractor that was exported as an XLA program, without TensorFlow: JAX is the client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from delf_tf import artifacts
from delf_tf.checks import InputError, invalid, require
from delf_tf.export import program_files


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
    metadata = program_files.read_metadata(directory)
    program = program_files.read_program(directory, metadata)
    # First of the two: bfloat16 weights are numbers of a package that comes with JAX.
    jax = _jax()
    weights = program_files.read_weights(directory, metadata)
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


def _empty(one: dict[str, Any]) -> np.ndarray:
    return np.zeros((0, *one["shape"][1:]), program_files.numpy_dtype(one["dtype"]))


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
        [(tuple(one["shape"]), program_files.numpy_dtype(one["dtype"])) for one in metadata[part]]
        for part in ("arguments", "outputs")
    ]
    require(
        said == _arrays(xla_client.XlaComputation(program).program_shape()),
        f"{program_files.PROGRAM} must take and give what {program_files.METADATA} lists.",
        hint=program_files.AGAIN,
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
