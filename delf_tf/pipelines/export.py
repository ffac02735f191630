"""Exports an experiment's extractor as a SavedModel, or its network in 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from delf_tf import artifacts
from delf_tf.checks import UsageError, require, require_absent, require_choice
from delf_tf.datasets import folder
from delf_tf.export import KINDS
from delf_tf.extraction.backends import choice
from delf_tf.pipelines.runtime import Runtime
from delf_tf.protos import experiment_pb2


def export(
    message: experiment_pb2.Experiment,
    output_dir: artifacts.StrPath,
    *,
    kind: str | None = None,
    local_pca: artifacts.StrPath | None = None,
    **options: Any,
) -> Path:
    """Exports the experiment's extractor and returns output_dir.

    Args:
      message: the experiment.
      output_dir: folder to make.
      kind: "local", "local_and_global" or "global"; None: what the config extracts.
      local_pca: fitted PCA of local descriptors; None for the config's own path.
      **options: overwrite, fixed_scales and pool_scales: see
        export.savedmodel.export_extractor.

    Raises:
      InputError: the model does not give what the kind needs, a PCA that is not fitted, or an
        output_dir that exists.
    """
    if kind is not None:
        require_choice("kind", kind, KINDS, UsageError)
        message.extraction.use_local_features = kind != "global"
        message.extraction.use_global_features = kind != "local"
    runtime = Runtime(message, local_pca=local_pca)
    require(
        not runtime.needs_local_pca,
        "The config's PCA of local descriptors must be fitted before it is exported.",
        hint="Give --local_pca; `delf_tf retrieve` fits one into its output folder.",
    )
    require(
        runtime.engine.backend == choice.TENSORFLOW,
        "Only TensorFlow's extractor can be exported as a SavedModel.",
        hint="--set=extraction.backend=tensorflow",
        backend=runtime.engine.backend,
    )
    pca_content = [artifacts.file_fingerprint(local_pca)] if local_pca else []
    extractor = runtime.extractor()
    options["fingerprint"] = runtime.fingerprint(*pca_content)
    from delf_tf.export import savedmodel  # noqa: PLC0415 - TensorFlow takes seconds

    return savedmodel.export_extractor(extractor, output_dir, kind=kind, **options)


def quantize(
    message: experiment_pb2.Experiment,
    images_dir: artifacts.StrPath,
    output_dir: artifacts.StrPath,
    *,
    max_num_images: int = 300,
    overwrite: bool = False,
) -> tuple[Path, str]:
    """Writes the experiment's network in 8 bits, calibrated on images, for OpenVINO.

    Args:
      message: the experiment.
      images_dir: folder of images like those that will be extracted.
      output_dir: folder to make.
      max_num_images: most images calibrated on.
      overwrite: replace what is at output_dir.

    Returns:
      output_dir, and the cosines of the descriptors to those in float32, in words.

    Raises:
      InputError: no images, or an output_dir that exists.
    """
    require_absent("output_dir", output_dir, overwrite)
    # NNCF and OpenVINO are an extra.
    from delf_tf.extraction.backends import quantization  # noqa: PLC0415

    runtime = Runtime(message)
    written = quantization.quantize(
        runtime.exported_network(),
        folder.list_images(images_dir),
        runtime.loader(),
        output_dir,
        image_scales=message.extraction.image_scales or (1.0,),
        max_num_images=max_num_images,
    )
    cosines = ", ".join(
        f"{name} median {cosine['median']:.4f}, least {cosine['min']:.4f}"
        for name, cosine in written.calibration["cosine"].items()
    )
    num_images = len(written.calibration["images"])
    return written.path, f"{num_images} images; cosine to float32: {cosines}"
