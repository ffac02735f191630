"""visualize: an image in, a picture of what the network sees in it out.

delf_tf visualize IMAGE --config=CONFIG --weights=PATH --output=out.png

Shows the attention; the selected local features with their scales, if the config extracts any;
the strongest super-features' maps; for DOLG the energy of the orthogonal part.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from matplotlib.figure import Figure

from delf_tf import artifacts
from delf_tf.checks import UsageError
from delf_tf.protos import experiment_pb2
from delf_tf.report import maps, plots
from delf_tf.tools import command_line, experiment
from delf_tf.types import ImageRef

FLAGS = flags.FlagValues()
experiment.define_flags(FLAGS, default_config="compact")
flags.DEFINE_string("output", "visualization.png", "the picture to write", flag_values=FLAGS)
command_line.define_count(FLAGS, "max_num_superfeatures", 6, "most super-features that are shown")
flags.DEFINE_string("local_pca", None, "fitted PCA of local descriptors (.npz)", flag_values=FLAGS)


def painter(
    message: experiment_pb2.Experiment,
    *,
    local_pca: artifacts.StrPath | None = None,
    max_num_superfeatures: int = 6,
) -> Callable[[ImageRef], Figure]:
    """Loads the experiment's network and returns what draws an image with what it sees in it.

    Args:
      message: the experiment.
      local_pca: fitted PCA of local descriptors; it changes no location.
      max_num_superfeatures: most super-features that are shown, at least 1.

    Returns:
      A function of an image that gives a figure, at the size that the network sees it at; it raises
      InputError for an image that cannot be read, or a network without anything to show.
    """
    # TensorFlow takes seconds to load.
    from delf_tf.extraction import engine, inspection  # noqa: PLC0415

    loader, model = experiment.create_loader(message), experiment.create_model(message)
    extractor = None
    if message.extraction.use_local_features and model.local_output in model.output_names_available:
        extractor = experiment.create_extractor(
            message, local_pca=local_pca, use_global=False, use_local=True
        )

    def paint(ref: ImageRef) -> Figure:
        image, _ = loader.load(ref)
        shown = inspection.network_maps(model, image, max_num_superfeatures=max_num_superfeatures)
        features = None if extractor is None else engine.extract_image(extractor, image).local
        return maps.overview_figure(image, shown, features)

    return paint


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    if len(arguments) != 1:
        raise UsageError(f"visualize takes one image. Received: {len(arguments)}.")
    paint = painter(
        experiment.from_flags(flag_values),
        local_pca=flag_values.local_pca,
        max_num_superfeatures=flag_values.max_num_superfeatures,
    )
    figure = paint(ImageRef(arguments[0], Path(arguments[0])))
    command_line.write_result(str(plots.save_figure(figure, flag_values.output)))


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
