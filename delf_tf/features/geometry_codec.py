"""Locations, scales and scores in 7 bytes a feature (16 as float32), with stated errors."""

from __future__ import annotations

import numpy as np

from delf_tf.checks import require
from delf_tf.types import LocalFeatures

Fields = dict[str, np.ndarray]

# name -> (dtype, shape of a row).
FIELDS = {
    # One row an image that has features: origin y, origin x, pixel step, score unit.
    "frame": (np.dtype(np.float32), (4,)),
    "locations": (np.dtype(np.uint16), (2,)),
    "scale_index": (np.dtype(np.uint8), ()),
    "scale_table": (np.dtype(np.float32), ()),
    "scores": (np.dtype(np.float16), ()),
}
_MIN_STEP_PX = 1 / 16
_MAX_CODE = 65535
_MAX_SCALES = 256


def encode_geometry(features: LocalFeatures) -> Fields:
    """Returns all but the descriptors, small.

    Locations are off by at most half a step: 1/32 px where the features span less than 4096 px,
    1/16 below 8192, 1/8 below 16384 px, and so on. Scores keep 11 bits of precision and their
    order up to ties. Scales are exact if an image has at most 256 different ones, as pyramids do;
    else they are off by a 256th of the ratio of the largest to the smallest, in the logarithm.
    """
    num = len(features)
    table, index = _tabulate(features.scales)
    origin, step, unit = np.zeros(2), _MIN_STEP_PX, 1.0
    if num:
        origin = np.floor(features.locations.min(axis=0)).astype(np.float64)
        span = float((features.locations - origin).max())
        step = max(_MIN_STEP_PX, _power_of_two_above(span / _MAX_CODE))
        unit = _power_of_two_above(float(np.abs(features.scores).max())) / 2.0**15
    codes = np.rint((features.locations - origin) / step)
    return {
        "frame": np.array([[*origin, step, unit]] * min(1, num), np.float32).reshape(-1, 4),
        "locations": codes.astype(np.uint16),
        "scale_index": index,
        "scale_table": table,
        "scores": (features.scores / unit).astype(np.float16),
    }


def decode_geometry(fields: Fields, descriptors: np.ndarray) -> LocalFeatures:
    """Returns the features that `encode_geometry` was given, with `descriptors`.

    Raises:
      InputError: fields that do not belong together.
    """
    num, index, table = len(fields["scores"]), fields["scale_index"], fields["scale_table"]
    require(
        len(fields["frame"]) == min(1, num) and bool((index < len(table)).all()),
        "The stored geometry of an image must have one frame and a table of all its scales.",
        frames=len(fields["frame"]),
        features=num,
        scales=len(table),
    )
    frame = fields["frame"].astype(np.float64) if num else np.zeros((1, 4))
    return LocalFeatures(
        locations=frame[:, :2] + fields["locations"] * frame[:, 2:3],
        descriptors=descriptors,
        scores=fields["scores"].astype(np.float64) * frame[0, 3],
        scales=table[index],
    )


def _tabulate(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    table, index = np.unique(scales, return_inverse=True)
    if len(table) > _MAX_SCALES:
        table = np.geomspace(table[0], table[-1], _MAX_SCALES, dtype=np.float64)
        middles = np.sqrt(table[:-1] * table[1:])
        index = np.searchsorted(middles, scales)
    return table.astype(np.float32), index.astype(np.uint8)


def _power_of_two_above(value: float) -> float:
    mantissa, exponent = np.frexp(value)
    # A power of two itself has mantissa 1/2.
    return float(np.ldexp(1.0, int(exponent) - int(mantissa == 0.5))) if value > 0 else 1.0
