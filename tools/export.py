"""export: an experiment's extractor in, a SavedModel out that TensorFlow Serving serves as it is.

delf_tf export --config=CONFIG --weights=PATH --output_dir=models/landmarks/1
delf_tf export … --kind=global --fixed_scales --pool_scales    image in, one descriptor out

Signatures of a SavedModel: serving_default is the original DELF code's (input_image,
input_scales, … in; boxes, features, scales, scores, global_descriptors out); extract is what
delf_tf.load_extractor calls. Both take a decoded image, at the size that it is to be extracted at.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from delf_tf.export import KINDS
from delf_tf.pipelines.export import export
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS)
flags.DEFINE_string("output_dir", None, "folder of the SavedModel to write", flag_values=FLAGS)
flags.DEFINE_string(
    "kind",
    None,
    f"{', '.join(KINDS)}; default: what the config extracts",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "fixed_scales",
    False,
    "bake the scales in: serving_default takes only the image",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "pool_scales",
    False,
    "pool the scales: serving_default returns one global descriptor",
    flag_values=FLAGS,
)
flags.DEFINE_string("local_pca", None, "fitted PCA of local descriptors (.npz)", flag_values=FLAGS)
flags.DEFINE_boolean("overwrite", False, "replace an existing output", flag_values=FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    (output_dir,) = command_line.required(flag_values, "output_dir")
    names = ("kind", "fixed_scales", "pool_scales", "local_pca", "overwrite")
    options = {name: flag_values[name].value for name in names}
    command_line.write_result(
        str(export(command_line.read_config(flag_values), output_dir, **options))
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
