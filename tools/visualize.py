"""visualize: an image in, a picture of what the network sees in it out.

delf_tf visualize IMAGE --config=CONFIG --weights=PATH --output=out.png

Shows the attention; the selected local features with their scales, if the config extracts any;
the strongest super-features' maps; for DOLG the energy of the orthogonal part.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from delf_tf.checks import UsageError
from delf_tf.pipelines import drawing
from delf_tf.pipelines.runtime import Runtime
from delf_tf.report import plots
from delf_tf.tools import command_line
from delf_tf.types import ImageRef

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS, default_config="compact")
flags.DEFINE_string("output", "visualization.png", "picture to write", flag_values=FLAGS)
command_line.define_count(
    FLAGS, "max_num_superfeatures", 6, "maximum number of super-features to draw"
)
flags.DEFINE_string("local_pca", None, "fitted PCA of local descriptors (.npz)", flag_values=FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    if len(arguments) != 1:
        raise UsageError(f"visualize takes one image. Received: {len(arguments)}.")
    paint = drawing.painter(
        Runtime(command_line.read_config(flag_values), local_pca=flag_values.local_pca),
        max_num_superfeatures=flag_values.max_num_superfeatures,
    )
    figure = paint(ImageRef(arguments[0], Path(arguments[0])))
    command_line.write_result(str(plots.save_figure(figure, flag_values.output)))


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
