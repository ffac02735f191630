"""visualize: an image in, a picture of what the network sees in it out.

delf_tf visualize IMAGE --output=maps.png [--config=CONFIG --weights=PATH]

Shows the attention; the selected local features with their scales, if the config extracts any;
the strongest super-features' maps; for DOLG the energy of the orthogonal part.
"""

from __future__ import annotations

import sys
from pathlib import Path

from delf_tf.checks import UsageError
from delf_tf.pipelines import drawing
from delf_tf.pipelines.runtime import Runtime
from delf_tf.report import plots
from delf_tf.tools import command_line
from delf_tf.types import ImageRef

FLAGS = command_line.Flags()
FLAGS.add_config("compact")
FLAGS.add_text("output", "picture to write", "visualization.png")
FLAGS.add_text("local_pca", "fitted PCA of local descriptors (.npz)")
FLAGS.add_count("max_num_superfeatures", "most super-features to draw", 6)


def main(flags: command_line.Flags, *paths: str) -> None:
    """Runs the tool."""
    if len(paths) != 1:
        raise UsageError(f"visualize takes one image. Received: {len(paths)}.")
    paint = drawing.painter(
        Runtime(flags.read_config(), local_pca=flags.local_pca),
        max_num_superfeatures=flags.max_num_superfeatures,
    )
    figure = paint(ImageRef(paths[0], Path(paths[0])))
    command_line.write_result(str(plots.save_figure(figure, flags.output)))


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
