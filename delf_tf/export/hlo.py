"""Writes an Extractor as an XLA program: HLO, and weights beside it, for clients of any kind.

XLA's serialized HLO is what both TensorFlow stacks give and what PJRT clients take; it names no
device. Sizes are fixed: an accelerator wants them so.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from delf_tf import artifacts
from delf_tf.checks import invalid, require, require_absent
from delf_tf.export import program_files
from delf_tf.extraction.extractor import MIN_SIDE_PX, Extractor
from delf_tf.features import tensor_file
from delf_tf.models.retrieval_model import RetrievalModel
from delf_tf.models.variables import variables_by_path

_MAX_SIDE_PX, _MAX_BATCH = 1 << 14, 1 << 12
# XLA's names of numbers.
_XLA_DTYPES = {"f32": "float32", "bf16": "bfloat16", "s32": "int32", "u8": "uint8"}


class Array(NamedTuple):
    """An argument or a result of a program."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def to_json(self) -> dict[str, Any]:
        """Returns it as program.json has it."""
        return {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}


def export_program(
    extractor: Extractor,
    output_dir: artifacts.StrPath,
    *,
    image_height: int,
    image_width: int,
    batch_size: int = 1,
    fingerprint: str = "",
    overwrite: bool = False,
) -> Path:
    """Writes Extractor.batch as an XLA program for images of one size.

    The folder holds program.hlo.pb (serialized HloModuleProto), weights.safetensors (its arguments
    behind the images, flattened, bfloat16 as the uint16 of the same bits) and program.json (their
    order, shapes and dtypes, those of the results, and what made them).
    `xla_program.load_program` runs it without TensorFlow. Arithmetic in float32 is asked for in
    full: no TF32 on GPUs, no single bfloat16 passes on TPUs.

    Args:
      extractor: what is computed; its precision is the program's.
      output_dir: folder to make.
      image_height: of every image, pixels.
      image_width: likewise.
      batch_size: images that the program takes at once.
      fingerprint: of everything that shapes the features; kept beside the program.
      overwrite: replace an existing folder.

    Returns:
      output_dir, which appears when it is complete and not before.

    Raises:
      InputError: a size out of range, a folder that exists, an extractor that suppresses
        overlapping features (nms_iou below 1), or a network that XLA does not compile.
    """
    output_dir = Path(output_dir)
    require_absent("output_dir", output_dir, overwrite)
    require(
        isinstance(extractor, Extractor),
        "Only an Extractor can be exported.",
        extractor=type(extractor).__name__,
    )
    _check_sizes(image_height, image_width, batch_size)
    shape = (batch_size, image_height, image_width, 3)
    program, arguments, weights, outputs = _compile(extractor, shape)
    metadata = {
        "format_version": program_files.FORMAT_VERSION,
        "fingerprint": fingerprint,
        "precision": extractor.precision,
        "image_scales": list(extractor.image_scales),
        "arguments": [one.to_json() for one in arguments],
        "outputs": [one.to_json() for one in outputs],
        "model": dict(extractor.model.options),
        "versions": {"tensorflow": tf.__version__},
    }
    with artifacts.atomic_folder(output_dir) as folder:
        path = artifacts.write_bytes(folder / program_files.PROGRAM, program)
        made_by = artifacts.file_fingerprint(path)
        with artifacts.atomic_write(folder / program_files.WEIGHTS) as file:
            tensor_file.write(file, weights, {"program_fingerprint": made_by})
        metadata["program_fingerprint"] = made_by
        artifacts.write_json(folder / program_files.METADATA, metadata)
    logging.info("Exported %s: %d images of %d x %d at once.", output_dir, *shape[:3])
    return output_dir


def _check_sizes(image_height: int, image_width: int, batch_size: int) -> None:
    for name, value in (("image_height", image_height), ("image_width", image_width)):
        require(
            isinstance(value, int) and MIN_SIDE_PX <= value <= _MAX_SIDE_PX,
            f"{name} must be {MIN_SIDE_PX} to {_MAX_SIDE_PX} pixels.",
            **{name: value},
        )
    require(
        isinstance(batch_size, int) and 1 <= batch_size <= _MAX_BATCH,
        f"batch_size must be 1 to {_MAX_BATCH}.",
        batch_size=batch_size,
    )


def _compile(
    extractor: Extractor, shape: tuple[int, ...]
) -> tuple[bytes, list[Array], dict[str, np.ndarray], list[Array]]:
    """Returns the program, what it takes, the stored weights among that, and what it gives."""
    spec = tf.TensorSpec(shape, tf.uint8, name=program_files.IMAGES)
    function = tf.function(extractor.batch, jit_compile=True, autograph=False)
    traced = function.get_concrete_function(spec)
    weights = _captured(extractor, traced)
    arguments = [Array(program_files.IMAGES, shape, "uint8")]
    arguments += [Array(name, value.shape, value.dtype.name) for name, value in weights.items()]
    # XLA's results are in the order of tf.nest, that of sorted names.
    outputs = [
        Array(name, tuple(one.shape), one.dtype.name)
        for name, one in sorted(traced.structured_outputs.items())
    ]
    with _full_float32():
        generate = function.experimental_get_compiler_ir(spec)
        text, program = generate(stage="hlo"), generate(stage="hlo_serialized")
    _check_program(text, arguments, outputs)
    stored = {
        name: value.reshape(-1).view(program_files.STORED[value.dtype.name])
        for name, value in weights.items()
    }
    return program, arguments, stored, outputs


def _captured(extractor: Extractor, traced: Any) -> dict[str, np.ndarray]:
    """Returns what the graph takes beside the images, in its order, by name."""
    variables = {id(variable.handle): variable for variable in traced.graph.variables}
    paths = {}
    if isinstance(extractor.model, RetrievalModel):
        named = variables_by_path(extractor.model).items()
        paths = {id(variable.handle): path for path, variable in named}
    values = {}
    for number, captured in enumerate(traced.captured_inputs):
        name = paths.get(id(captured), f"constant{number}")
        source = variables.get(id(captured), captured)
        # A copy whose items follow each other, of a scalar too.
        values[name] = np.array(tf.convert_to_tensor(source).numpy(), order="C")
    return values


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """What is compiled inside multiplies float32 as float32."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def _check_program(text: str, arguments: list[Array], outputs: list[Array]) -> None:
    """Requires of HLO text that it takes and gives what is said, and runs on any device."""
    header = text.partition("\n")[0]
    layout = re.search(r"entry_computation_layout=\{(.*?)->(.*)", header)
    found = [_arrays(part) for part in layout.groups()] if layout else []
    wanted = [[(one.dtype, one.shape) for one in part] for part in (arguments, outputs)]
    if found != wanted or " custom-call(" in text:
        raise invalid(
            "The program must take and give the arrays that TensorFlow traced, on any device.",
            hint="This version of TensorFlow compiles otherwise; export with another.",
            tensorflow=tf.__version__,
            header=header,
        )


def _arrays(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns dtype and shape of each array in a part of an HLO layout, such as f32[2,3]{1,0}."""
    return [
        (_XLA_DTYPES.get(dtype, dtype), tuple(int(axis) for axis in axes.split(",") if axis))
        for dtype, axes in re.findall(r"\b([a-z]+\d+)\[([\d,]*)\]", text)
    ]
