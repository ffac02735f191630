"""The reference networks' weights, regenerated from their names and shapes alone."""

from __future__ import annotations

import json
import zlib

import numpy as np

# Learnt tokens, which enter sums as they are.
_TOKENS = ("lit.templates_init", "cls_token", "pos_embed", "register_tokens", "mask_token")


def regenerate(path):
    """Returns the state dict whose names and shapes the JSON file lists."""
    shapes = json.loads(path.read_text(encoding="utf-8"))
    return {name: _value(name, shape) for name, shape in shapes.items()}


def golden_image():
    """Returns the reference's image, float32 [1, 224, 320, 3] in 0..1, its network's channels."""
    seeded = np.random.RandomState(zlib.crc32(b"image"))
    return seeded.uniform(0, 1, (1, 3, 224, 320)).transpose(0, 2, 3, 1).astype(np.float32)


def relative_error(got, want):
    """Returns the L2 norm of the difference over that of `want`."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def _value(name, shape):
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name in ("pool_g.p", "desc_cls.t"):
        return np.full(shape, 3.0 if name == "pool_g.p" else 0.0, np.float32)
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        value = 1 + 0.1 * np.abs(drawn)
    elif name.endswith("running_mean"):
        value = 0.1 * drawn
    elif name.endswith(".weight") and len(shape) == 1:
        value = 1 + 0.1 * drawn
    elif name.endswith(".bias"):
        value = 0.01 * drawn
    elif name.endswith(".gamma"):
        value = 0.5 + 0.1 * drawn
    elif name in _TOKENS:
        value = drawn
    else:
        value = drawn * np.sqrt(2 / np.prod(shape[1:]))
    damped = name.endswith(("c_bn.weight", "bn3.weight"))
    return np.asarray(value * (0.2 if damped else 1.0), np.float32)
