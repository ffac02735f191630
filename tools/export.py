"""export: an experiment's extractor in, a SavedModel out that TensorFlow Serving serves as it is.

delf_tf export --config=CONFIG --weights=PATH --output_dir=models/landmarks/1
delf_tf export … --kind=global --fixed_scales --pool_scales    image in, one descriptor out

Signatures of a SavedModel: serving_default is the original DELF code's (input_image,
input_scales, … in; boxes, features, scales, scores, global_descriptors out); encoded_images takes
a batch of JPEG files (image_bytes) and applies the config's size limits; extract is what
delf_tf.load_extractor calls.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from delf_tf import artifacts
from delf_tf.checks import UsageError, require, require_choice
from delf_tf.export import KINDS
from delf_tf.protos import experiment_pb2
from delf_tf.tools import command_line, experiment

FLAGS = flags.FlagValues()
experiment.define_flags(FLAGS)
flags.DEFINE_string("output_dir", None, "the folder to make", flag_values=FLAGS)
flags.DEFINE_string(
    "kind",
    None,
    f"{', '.join(KINDS)}; not given: what the config extracts",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "fixed_scales", False, "serving_default takes the image alone", flag_values=FLAGS
)
flags.DEFINE_boolean(
    "pool_scales", False, "serving_default gives one global descriptor", flag_values=FLAGS
)
flags.DEFINE_string("local_pca", None, "fitted PCA of local descriptors (.npz)", flag_values=FLAGS)
flags.DEFINE_boolean("overwrite", False, "replace an existing folder", flag_values=FLAGS)


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
    require(
        local_pca is not None or not experiment.needs_local_pca(message),
        "The config's PCA of local descriptors must be fitted before it is exported.",
        hint="Give --local_pca; `delf_tf retrieve` fits one into its output folder.",
    )
    pca_content = [artifacts.file_fingerprint(local_pca)] if local_pca else []
    extractor = experiment.create_extractor(message, local_pca=local_pca)
    options["fingerprint"] = experiment.extraction_fingerprint(message, *pca_content)
    from delf_tf.export import encoded, savedmodel  # noqa: PLC0415 - TensorFlow takes seconds

    settings = message.extraction
    limits = encoded.Limits(
        settings.max_image_size, settings.min_image_size, settings.max_image_pixels
    )
    return savedmodel.export_extractor(extractor, output_dir, kind=kind, limits=limits, **options)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    (output_dir,) = command_line.required(flag_values, "output_dir")
    names = ("kind", "fixed_scales", "pool_scales", "local_pca", "overwrite")
    options = {name: flag_values[name].value for name in names}
    command_line.write_result(
        str(export(experiment.from_flags(flag_values), output_dir, **options))
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
