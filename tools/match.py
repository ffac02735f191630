"""match: draws two images with the local features that agree on one geometric transform.

delf_tf match A.jpg B.jpg --output=matches.png [--config=CONFIG --weights=PATH]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from delf_tf import matching
from delf_tf.checks import UsageError
from delf_tf.datasets import images
from delf_tf.report import plots
from delf_tf.tools import command_line, experiment, rerank
from delf_tf.types import ImageRef

FLAGS = flags.FlagValues()
experiment.define_flags(FLAGS, default_config="compact")
experiment.define_extraction_flags(FLAGS)
flags.DEFINE_string("output", "matches.png", "the picture to write", flag_values=FLAGS)
flags.DEFINE_boolean(
    "show_outliers", False, "draw the other matches too, in red", flag_values=FLAGS
)
flags.DEFINE_string("local_pca", None, "fitted PCA of local descriptors (.npz)", flag_values=FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    if len(arguments) != 2:
        raise UsageError(f"match takes two images. Received: {len(arguments)}.")
    from delf_tf.extraction import engine  # noqa: PLC0415 - TensorFlow takes seconds to load

    message = experiment.from_flags(flag_values)
    loader = experiment.create_loader(message)
    refs = [ImageRef(path, Path(path)) for path in arguments]
    pictures = [images.read_image(ref) for ref in refs]
    extractor = experiment.create_extractor(
        message, local_pca=flag_values.local_pca, use_global=False, use_local=True
    )
    features = [engine.extract_image(extractor, *loader.load(ref)).local for ref in refs]
    found = matching.verify(*features, **rerank.verify_options(message))
    words = f"{found.num_inliers} inliers of {len(found.matches)} matches"
    figure = plots.matches_figure(
        *pictures,
        features[0].locations[found.matches[:, 0]],
        features[1].locations[found.matches[:, 1]],
        found.inlier_mask,
        transform=found.transform,
        show_outliers=flag_values.show_outliers,
        title=words,
    )
    path = plots.save_figure(figure, flag_values.output)
    command_line.write_result(f"{words}: {path}")


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
