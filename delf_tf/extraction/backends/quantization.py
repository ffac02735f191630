"""A network in 8 bits: NNCF's post-training quantisation, calibrated on the user's images.

Convolutions get integer weights and activations. What float_layers names keeps its numbers: the
pixels and the first convolution, scores, pooling, whitening, normalisation.
"""

from __future__ import annotations

import contextlib
import logging as standard_logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from delf_tf import artifacts
from delf_tf.checks import InputError, invalid, require
from delf_tf.extraction.array_extractor import l2_normalize
from delf_tf.extraction.backends import network_folder, openvino_runtime
from delf_tf.extraction.backends.float_layers import float_layers
from delf_tf.extraction.backends.network import DESCRIPTORS
from delf_tf.extraction.backends.openvino import OpenVinoNetwork
from delf_tf.extraction.backends.precision import INT8
from delf_tf.extraction.pyramid import scaled_size
from delf_tf.extraction.resize import pyramid_level
from delf_tf.types import ImageRef

if TYPE_CHECKING:
    from delf_tf.extraction.loader import ImageLoader

MAX_NUM_IMAGES = 300
# Images that are compared in both precisions afterwards.
_NUM_COMPARED = 8
# Local features of an image that are compared, and the tensor that orders them.
_NUM_STRONGEST = 200
_STRENGTHS = {"local": "scores", "superfeatures": "strengths"}


def quantize(
    folder: network_folder.NetworkFolder,
    refs: Sequence[ImageRef],
    loader: ImageLoader,
    path: artifacts.StrPath,
    *,
    image_scales: Sequence[float] = (1.0,),
    max_num_images: int = MAX_NUM_IMAGES,
) -> network_folder.NetworkFolder:
    """Quantises a network and writes it; its `calibration` records the images and the loss.

    `calibration` holds "images", the fingerprint of each by its id, "image_scales", and "cosine" of
    each output's descriptors to those in float32, "median" and "min" over some of the images.

    Args:
      folder: of a float32 network.
      refs: images like those that the network will see; spread evenly if there are too many.
      loader: decodes and limits.
      path: the folder to make; what is there is replaced.
      image_scales: factors of the images, in turn.
      max_num_images: most images that are used, at most MAX_NUM_IMAGES.

    Raises:
      InputError: NNCF is missing, or no image can be read.
    """
    nncf = _load_nncf()
    require(
        1 <= max_num_images <= MAX_NUM_IMAGES,
        f"max_num_images must be 1 to {MAX_NUM_IMAGES}.",
        max_num_images=max_num_images,
    )
    readable = _readable(_spread(refs, max_num_images), loader)
    scales = [image_scales[row % len(image_scales)] for row in range(len(readable))]

    def inputs(item: tuple[ImageRef, float]) -> dict[str, np.ndarray]:
        ref, scale = item
        image, _ = loader.load(ref)
        return {"images": pyramid_level(image[np.newaxis], scaled_size(image.shape[:2], scale))}

    network = folder.read()
    # NNCF writes its progress to stdout, which is for results.
    with contextlib.redirect_stdout(sys.stderr):
        quantized = nncf.quantize(
            network,
            nncf.Dataset(list(zip(readable, scales)), inputs),
            subset_size=len(readable),
            ignored_scope=nncf.IgnoredScope(names=sorted(float_layers(network)), validate=False),
        )
    calibration = {
        "images": {ref.id: artifacts.file_fingerprint(ref.path) for ref in readable},
        "image_scales": list(image_scales),
    }
    written = _write(quantized, folder, path, calibration)
    calibration["cosine"] = _cosines(folder, written, readable, loader)
    logging.info("Cosine to float32: %s.", calibration["cosine"])
    return _write(quantized, folder, path, calibration)


def _write(
    network: Any,
    folder: network_folder.NetworkFolder,
    path: artifacts.StrPath,
    calibration: dict[str, Any],
) -> network_folder.NetworkFolder:
    return network_folder.write_network(
        network,
        path,
        folder.facts,
        fingerprint=folder.fingerprint,
        weights_dtype=INT8,
        calibration=calibration,
    )


def _load_nncf() -> Any:
    openvino_runtime.load()
    try:
        import nncf  # noqa: PLC0415 - an extra
    except ImportError:
        raise invalid(
            "Quantisation needs the package nncf.", hint="pip install delf_tf[openvino]"
        ) from None
    # Not by nncf.set_log_level, which silences every handler that others put on its logger.
    standard_logging.getLogger("nncf").setLevel(standard_logging.ERROR)
    return nncf


def _spread(refs: Sequence[ImageRef], most: int) -> list[ImageRef]:
    step = max(1.0, len(refs) / most)
    return [refs[int(row * step)] for row in range(min(most, len(refs)))]


def _readable(refs: Sequence[ImageRef], loader: ImageLoader) -> list[ImageRef]:
    found = []
    for ref in refs:
        reason = _why_unreadable(ref, loader)
        if reason is None:
            found.append(ref)
        else:
            logging.warning("%s: %s", ref.id, reason)
    require(bool(found), "Calibration needs at least one readable image.", num_images=len(refs))
    return found


def _why_unreadable(ref: ImageRef, loader: ImageLoader) -> str | None:
    try:
        loader.load(ref)
    except InputError as error:
        return " ".join(str(error).split())
    return None


def _cosines(
    before: network_folder.NetworkFolder,
    after: network_folder.NetworkFolder,
    refs: Sequence[ImageRef],
    loader: ImageLoader,
) -> dict[str, dict[str, float]]:
    """Returns the "median" and "min" cosine of each output's descriptors on some images."""
    networks = OpenVinoNetwork(before), OpenVinoNetwork(after, precision=INT8)
    names = before.facts.output_names_available
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for ref in _spread(refs, _NUM_COMPARED):
        picture = loader.load(ref)[0]
        full, low = (one(picture[np.newaxis], picture.shape[:2], names) for one in networks)
        for name in names:
            found[name].append(_row_cosines(full, low, name))
    cosines = {name: np.concatenate(rows) for name, rows in found.items()}
    return {
        name: {"median": float(np.median(rows)), "min": float(rows.min())}
        for name, rows in cosines.items()
    }


def _row_cosines(
    full: dict[str, np.ndarray], low: dict[str, np.ndarray], output: str
) -> np.ndarray:
    """Returns the cosines of an output's descriptors, of local ones the strongest."""
    descriptors = DESCRIPTORS[output]
    rows = [one[descriptors].reshape(-1, one[descriptors].shape[-1]) for one in (full, low)]
    if output in _STRENGTHS:
        strengths = full[_STRENGTHS[output]].ravel()
        strongest = np.argsort(-strengths, kind="stable")[:_NUM_STRONGEST]
        rows = [one[strongest] for one in rows]
    return np.sum(l2_normalize(rows[0]) * l2_normalize(rows[1]), axis=-1)
