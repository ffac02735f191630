"""Pictures of what a network sees in an image, and of the matches between two images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from delf_tf import matching
from delf_tf.artifacts import StrPath
from delf_tf.datasets import images
from delf_tf.pipelines.runtime import Runtime, verify_options
from delf_tf.report import maps, plots
from delf_tf.types import ImageRef

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def painter(runtime: Runtime, *, max_num_superfeatures: int = 6) -> Callable[[ImageRef], Figure]:
    """Returns what draws an image with what the experiment's network sees in it.

    Args:
      runtime: the experiment.
      max_num_superfeatures: most super-features that are shown, at least 1.

    Returns:
      A function of an image that gives a figure, at the size that the network sees it at; it raises
      InputError for an image that cannot be read, or a network without anything to show.
    """
    # TensorFlow takes seconds to load.
    from delf_tf.extraction import engine, inspection  # noqa: PLC0415

    loader, model = runtime.loader(), runtime.network
    settings, given = runtime.message.extraction, model.output_names_available
    extractor = None
    if settings.use_local_features and model.local_output in given:
        # That of the experiment where it can be, which is compiled already if it was in use.
        extractor = runtime.extractor(use_global=settings.use_global_features and "global" in given)

    def paint(ref: ImageRef) -> Figure:
        image, _ = loader.load(ref)
        shown = inspection.network_maps(model, image, max_num_superfeatures=max_num_superfeatures)
        features = None if extractor is None else engine.extract_image(extractor, image).local
        return maps.overview_figure(image, shown, features)

    return paint


def draw_matches(
    runtime: Runtime, refs: Sequence[ImageRef], output: StrPath, *, show_outliers: bool
) -> tuple[Path, str]:
    """Draws two images with the local features that agree on one geometric transform.

    Args:
      runtime: the experiment.
      refs: the two images.
      output: of the picture.
      show_outliers: draw the other matches too.

    Returns:
      `output`, and how many matches agree.

    Raises:
      InputError: an image that cannot be read.
    """
    from delf_tf.extraction import engine  # noqa: PLC0415 - TensorFlow takes seconds to load

    loader = runtime.loader()
    pictures = [images.read_image(ref) for ref in refs]
    extractor = runtime.extractor(use_global=False, use_local=True)
    features = [engine.extract_image(extractor, *loader.load(ref)).local for ref in refs]
    found = matching.verify(*features, **verify_options(runtime.message))
    words = f"{found.num_inliers} inliers of {len(found.matches)} matches"
    figure = plots.matches_figure(
        *pictures,
        features[0].locations[found.matches[:, 0]],
        features[1].locations[found.matches[:, 1]],
        found.inlier_mask,
        transform=found.transform,
        show_outliers=show_outliers,
        title=words,
    )
    return plots.save_figure(figure, output), words
