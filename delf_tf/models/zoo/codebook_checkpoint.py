"""Codebooks in TensorFlow's checkpoint format, as the original DELF publishes them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import tensorflow as tf

from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, as_array, invalid, require

# The published codebooks, one saved as a plain variable, and the original's own training tool.
NAMES = ("codebook/.ATTRIBUTES/VARIABLE_VALUE", "codebook", "clusters")
_DATA = ".data-00000-of-00001"


def read_codebook_checkpoint(prefix: StrPath) -> np.ndarray:
    """Reads the codebook of a checkpoint.

    Args:
      prefix: path without ".index" and ".data-00000-of-00001".

    Returns:
      float32 [K, D].

    Raises:
      InputError: no such files, damaged or sharded, no codebook in it.
    """
    for ending in (".index", _DATA):
        require(
            Path(f"{prefix}{ending}").is_file(),
            "A checkpoint must have its .index and .data-00000-of-00001 file.",
            hint="Give the path without these endings.",
            path=f"{prefix}{ending}",
        )
    try:
        return as_array("codebook", _read(str(prefix)), ("K", "D"))
    except InputError:
        raise
    except Exception as error:  # What damaged bytes do to TensorFlow's reader is open-ended.
        raise invalid(
            "The checkpoint must hold a whole float32 codebook [K, D].",
            path=Path(prefix),
            fault=" ".join(str(error).split())[:200],
        ) from None


def _read(prefix: str) -> np.ndarray:
    reader = tf.train.load_checkpoint(prefix)
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    name = next((name for name in NAMES if name in shapes), None)
    if name is None:
        raise ValueError(f"no tensor named {' or '.join(NAMES)}")
    shape = shapes[name]
    if dtypes[name] != tf.float32 or len(shape) != 2:
        raise ValueError(f"a tensor of shape {shape} that is not float32 [K, D]")
    # Before TensorFlow makes room for it.
    if 4 * math.prod(shape) > Path(f"{prefix}{_DATA}").stat().st_size:
        raise ValueError("a tensor outside of the file")
    return reader.get_tensor(name)
