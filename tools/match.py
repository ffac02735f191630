"""match: draws two images with the local features that agree on one geometric transform.

delf_tf match A.jpg B.jpg --output=matches.png [--config=CONFIG --weights=PATH]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from delf_tf.checks import UsageError
from delf_tf.pipelines import drawing
from delf_tf.pipelines.runtime import Runtime
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS, default_config="compact", extraction=True)
flags.DEFINE_string("output", "matches.png", "picture to write", flag_values=FLAGS)
flags.DEFINE_boolean("show_outliers", False, "draw outliers too, in red", flag_values=FLAGS)
flags.DEFINE_string("local_pca", None, "fitted PCA of local descriptors (.npz)", flag_values=FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    if len(arguments) != 2:
        raise UsageError(f"match takes two images. Received: {len(arguments)}.")
    path, words = drawing.draw_matches(
        Runtime(command_line.read_config(flag_values), local_pca=flag_values.local_pca),
        (arguments[0], arguments[1]),
        flag_values.output,
        show_outliers=flag_values.show_outliers,
    )
    command_line.write_result(f"{words}: {path}")


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
