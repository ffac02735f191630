"""match: draws two images with the local features that agree on one geometric transform.

delf_tf match A.jpg B.jpg --output=matches.png [--config=CONFIG --weights=PATH]
"""

from __future__ import annotations

import sys
from pathlib import Path

from delf_tf.checks import UsageError
from delf_tf.pipelines import drawing
from delf_tf.pipelines.runtime import Runtime
from delf_tf.tools import command_line
from delf_tf.types import ImageRef

FLAGS = command_line.Flags()
FLAGS.add_config("compact", extraction=True)
FLAGS.add_text("output", "picture to write", "matches.png")
FLAGS.add_switch("show_outliers", "draw outliers too, in red")
FLAGS.add_text("local_pca", "fitted PCA of local descriptors (.npz)")


def main(flags: command_line.Flags, *paths: str) -> None:
    """Runs the tool."""
    if len(paths) != 2:
        raise UsageError(f"match takes two images. Received: {len(paths)}.")
    path, words = drawing.draw_matches(
        Runtime(flags.read_config(), local_pca=flags.local_pca),
        [ImageRef(path, Path(path)) for path in paths],
        flags.output,
        show_outliers=flags.show_outliers,
    )
    command_line.write_result(f"{words}: {path}")


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
