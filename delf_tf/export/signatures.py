"""The graphs that a SavedModel offers: the original's signatures, and the Extractor's own call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from delf_tf.checks import require, require_choice
from delf_tf.export import KINDS
from delf_tf.extraction import selection
from delf_tf.extraction.extractor import Extractor, pool
from delf_tf.extraction.settings import LOCAL_NAMES, MAX_SCALE, MIN_SIDE_PX

IMAGE = tf.TensorSpec([None, None, 3], tf.uint8, name="input_image")
_SCALES = tf.TensorSpec([None], tf.float32, name="input_scales")
_MAX_NUM = tf.TensorSpec([], tf.int32, name="input_max_feature_num")
_THRESHOLD = tf.TensorSpec([], tf.float32, name="input_abs_thres")
_GLOBAL_IND = tf.TensorSpec([None], tf.int32, name="input_global_scales_ind")

# Inputs that the original's signatures of each kind take, beside the image.
_SETTINGS = {
    "local": (_SCALES, _MAX_NUM, _THRESHOLD),
    "local_and_global": (_SCALES, _MAX_NUM, _THRESHOLD, _GLOBAL_IND),
    "global": (_SCALES, _GLOBAL_IND),
}

Tensors = dict[str, tf.Tensor]


def default_kind(extractor: Extractor) -> str:
    """Returns the kind that offers all that the Extractor gives."""
    if not extractor.use_local_features:
        return "global"
    return "local_and_global" if extractor.use_global_features else "local"


def original(
    extractor: Extractor, kind: str, *, fixed_scales: bool = False, pool_scales: bool = False
) -> Any:
    """Makes a signature of the original DELF code: its inputs and outputs, by its names.

    Inputs: input_image uint8 [H, W, 3]; input_scales float32 [S]; for local features
    input_max_feature_num int32 [] and input_abs_thres float32 []; for global ones
    input_global_scales_ind int32 [G], indices into input_scales, none for no descriptor.
    Outputs: boxes [N, 4], (y0, x0, y1, x1) pixels of the image, centred at the true location of
    each feature; features [N, D], projected and L2-normalised; scales [N], one over the image
    scale; scores [N, 1], falling; global_descriptors [G, D], rows L2-normalised, or pooled
    global_descriptor [D]. All float32.

    Args:
      extractor: what is computed.
      kind: one of export.KINDS.
      fixed_scales: take input_image alone, the rest is the Extractor's.
      pool_scales: give global_descriptor.

    Returns:
      A concrete function.

    Raises:
      InputError: features that the Extractor does not give, or nothing to pool.
    """
    require_choice("kind", kind, KINDS)
    wants_local, wants_global = kind != "global", kind != "local"
    for name, wanted in (("local", wants_local), ("global", wants_global)):
        given = extractor.use_local_features if name == "local" else extractor.use_global_features
        require(
            given or not wanted,
            f"A {kind} signature must be of an extractor that gives {name} features.",
            hint=f"This one gives {default_kind(extractor)} features.",
            kind=kind,
        )
    require(
        wants_global or not pool_scales,
        "pool_scales must go with global features.",
        kind=kind,
        pool_scales=pool_scales,
    )

    def run(input_image: tf.Tensor, **settings: tf.Tensor) -> Tensors:
        with tf.control_dependencies(_assertions(input_image, settings)):
            # What follows waits for them: its own complaints would be less clear.
            input_image = tf.identity(input_image)
            settings = {name: tf.identity(value) for name, value in settings.items()}
        if fixed_scales:
            rows = _fixed(extractor, input_image, wants_global, wants_local)
            limits = extractor.settings.max_num_features, extractor.settings.score_threshold
        else:
            rows = _over_scales(extractor, input_image, wants_global, wants_local, settings)
            limits = settings.get(_MAX_NUM.name), settings.get(_THRESHOLD.name)
        result = {}
        if wants_local:
            kept = extractor.select({name: rows[name] for name in LOCAL_NAMES}, *limits)
            result.update(_named(kept, extractor.settings.nms_box_px))
        if pool_scales:
            result["global_descriptor"] = pool(rows["global"])
        elif wants_global:
            result["global_descriptors"] = rows["global"]
        return result

    specs = () if fixed_scales else _SETTINGS[kind]
    return _trace(run, (IMAGE, *specs))


def extract(extractor: Extractor) -> Any:
    """Makes the signature of the Extractor's own call; its input is `image`."""
    return _trace(extractor, (tf.TensorSpec([None, None, 3], tf.uint8, name="image"),))


def _trace(run: Callable[..., Tensors], specs: tuple[tf.TensorSpec, ...]) -> Any:
    # By keyword: a signature's inputs are called as the arguments are.
    return tf.function(run, autograph=False).get_concrete_function(
        **{spec.name: spec for spec in specs}
    )


def _assertions(image: tf.Tensor, settings: Tensors) -> list[tf.Operation]:
    """Makes the graph's checks: what a server's client sends is checked there or nowhere."""
    must = f"input_image must have at least {MIN_SIDE_PX} pixels on each side."
    size = tf.shape(image)[:2]
    checks = [tf.debugging.Assert(tf.reduce_all(size >= MIN_SIDE_PX), [must, size])]
    scales, indices, most = (settings.get(spec.name) for spec in (_SCALES, _GLOBAL_IND, _MAX_NUM))
    if scales is not None:
        must = f"input_scales must be one or more factors above 0 and at most {MAX_SCALE}."
        fits = tf.reduce_all((scales > 0.0) & (scales <= float(MAX_SCALE)))
        checks.append(tf.debugging.Assert(fits & (tf.size(scales) > 0), [must, scales]))
    if indices is not None:
        must = "input_global_scales_ind must index input_scales."
        fits = tf.reduce_all((indices >= 0) & (indices < tf.size(scales)))
        checks.append(tf.debugging.Assert(fits, [must, indices]))
    if most is not None:
        must = "input_max_feature_num must not be negative."
        checks.append(tf.debugging.Assert(most >= 0, [must, most]))
    return checks


def _fixed(extractor: Extractor, image: tf.Tensor, use_global: bool, use_local: bool) -> Tensors:
    """Returns the rows of the Extractor's own scales, as Extractor.level names them."""
    levels = extractor.levels(image)
    names = ("global",) * use_global + LOCAL_NAMES * use_local
    return {
        name: tf.concat([level[name] for level in levels if name in level], axis=0)
        for name in names
    }


def _over_scales(
    extractor: Extractor, image: tf.Tensor, use_global: bool, use_local: bool, settings: Tensors
) -> Tensors:
    """Returns the rows of scales that the graph is given, in a loop."""
    scales = settings[_SCALES.name]
    indices = settings.get(_GLOBAL_IND.name)
    widths = {"global": [extractor.global_dim]} if use_global else {}
    if use_local:
        dim = extractor.model.local_dim
        widths.update({"locations": [2], "descriptors": [dim], "scores": [], "scales": []})
    rows = {
        name: tf.TensorArray(
            tf.float32, tf.size(scales), infer_shape=False, element_shape=[None, *width]
        )
        for name, width in widths.items()
    }

    def without_global(scale: tf.Tensor) -> Tensors:
        level = extractor.level(image, scale, False, True) if use_local else {}
        return {"global": tf.zeros([1, extractor.global_dim]), **level}

    def add(index: tf.Tensor, rows: dict[str, tf.TensorArray]) -> tuple[tf.Tensor, Any]:
        scale = scales[index]
        if use_global:
            level = tf.cond(
                tf.reduce_any(tf.equal(indices, index)),
                lambda: extractor.level(image, scale, True, use_local),
                lambda: without_global(scale),
            )
        else:
            level = extractor.level(image, scale, False, True)
        return index + 1, {name: rows[name].write(index, level[name]) for name in rows}

    # One scale at a time: the largest of them decides how much memory an image takes.
    _, rows = tf.while_loop(
        lambda index, _: index < tf.size(scales), add, (0, rows), parallel_iterations=1
    )
    result = {name: array.concat() for name, array in rows.items()}
    if use_global:
        result["global"] = tf.gather(result["global"], indices)
    return result


def _named(kept: Tensors, box_px: float) -> Tensors:
    """Returns local features by the original's names."""
    return {
        "boxes": selection.receptive_boxes(kept["locations"], kept["scales"], box_px),
        "features": kept["descriptors"],
        "scales": kept["scales"],
        "scores": kept["scores"][:, tf.newaxis],
    }
