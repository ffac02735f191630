"""visualize: an image in, what the network sees in it out; or two, and the inliers between them.

delf_tf visualize IMAGE --output=maps.png [--config=CONFIG --weights=PATH]
delf_tf visualize IMAGE IMAGE --output=matches.png [--config=CONFIG --weights=PATH]

Of one image: the attention; the selected local features with their scales, if the config extracts
any; the strongest super-features' maps; for DOLG the energy of the orthogonal part. Of two: the
local features that agree on one geometric transform.
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
FLAGS.add_config("compact", extraction=True)
FLAGS.add_text("output", "picture to write", "visualization.png")
FLAGS.add_text("local_pca", "fitted PCA of local descriptors (.npz)")
FLAGS.add_count("max_num_superfeatures", "one image: most super-features to draw", 6)
FLAGS.add_switch("show_outliers", "two images: draw outliers too, in red")


def main(flags: command_line.Flags, *paths: str) -> None:
    """Runs the tool."""
    if len(paths) not in (1, 2):
        raise UsageError(f"visualize takes one image or two. Received: {len(paths)}.")
    runtime = Runtime(flags.read_config(), local_pca=flags.local_pca)
    refs = [ImageRef(path, Path(path)) for path in paths]
    if len(refs) == 1:
        paint = drawing.painter(runtime, max_num_superfeatures=flags.max_num_superfeatures)
        told = str(plots.save_figure(paint(refs[0]), flags.output))
    else:
        path, words = drawing.draw_matches(
            runtime, refs, flags.output, show_outliers=flags.show_outliers
        )
        told = f"{words}: {path}"
    command_line.write_result(told)


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
