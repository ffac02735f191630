"""What a Python user opens: a model, a folder of photographs, an extractor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import logging

from delf_tf import config
from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import extraction, retrieve, searching
from delf_tf.pipelines.photos.photos import Photos
from delf_tf.pipelines.runtime import Runtime
from delf_tf.protos import experiment_pb2

if TYPE_CHECKING:
    from delf_tf.export.loading import SavedExtractor
    from delf_tf.extraction.array_extractor import ArrayExtractor
    from delf_tf.extraction.extractor import Extractor
    from delf_tf.extraction.released import ReleasedExtractor


def open_model(
    config_name: str = "compact",
    weights: StrPath | None = None,
    *,
    overrides: Sequence[str] = (),
    allow_imports: Sequence[str] = (),
) -> Model:
    """Opens a model, which is built when it is first needed.

    Args:
      config_name: the name of a shipped config, or the path of one (.textproto); "compact" works at
        once.
      weights: file or published name, instead of the config's.
      overrides: "path.to.field=value", applied to the config in order.
      allow_imports: packages whose code the config may name: "my_package.module:function".

    Raises:
      UsageError: no such config.
      InputError: a config whose stages do not fit together.
    """
    message = _read(config_name, weights, overrides, allow_imports)
    searching.rehearse(message)
    return Model(Runtime(message))


class Model:
    """A network with its settings of extraction, search and re-ranking; see `open_model`."""

    def __init__(self, runtime: Runtime):
        """Takes an opened experiment."""
        self.runtime = runtime

    def extract(
        self,
        images_dir: StrPath,
        features_dir: StrPath,
        *,
        num_threads: int = 2,
        overwrite: bool = False,
    ) -> Photos:
        """Extracts a folder of images, as `delf_tf retrieve` does; run again, it follows it.

        Args:
          images_dir: searched recursively.
          features_dir: receives the features; `delf_tf serve --index=features_dir` opens it, too.
          num_threads: that decode images, and verify pairs.
          overwrite: start anew, whatever features_dir holds.

        Raises:
          InputError: no readable image, or features of another model in features_dir.
        """
        # Each folder has a PCA of its own, if the config asks for one.
        runtime = self.runtime.copy()
        collections = extraction.read_collections(images_dir)
        sharding = extraction.Sharding(num_threads=num_threads, overwrite=overwrite)
        store = extraction.extract_collections(
            runtime, collections, Path(features_dir), sharding
        ).database
        retrieve.write_facts(Path(features_dir), runtime.message, collections.database_dir)
        return Photos(runtime, store, images_dir, num_threads=num_threads)


def open_photos(features_dir: StrPath, *, allow_imports: Sequence[str] = ()) -> Photos:
    """Opens what `Model.extract` or `delf_tf retrieve` left.

    Args:
      features_dir: the folder.
      allow_imports: see `open_model`.

    Raises:
      InputError: no such folder, or a damaged one.
    """
    folder = retrieve.read_folder(features_dir, allow_imports=allow_imports)
    return Photos(Runtime(folder.message), FeatureStore(folder.store), folder.images_dir)


def load_extractor(
    path: StrPath,
    weights: StrPath | None = None,
    *,
    overrides: Sequence[str] = (),
    local_pca: StrPath | None = None,
    allow_imports: Sequence[str] = (),
) -> Extractor | ArrayExtractor | ReleasedExtractor | SavedExtractor:
    """Makes an extractor: `extractor(image) -> features`.

    It takes one upright RGB image, uint8 [H, W, 3], at the size it is to be extracted at (limits of
    size belong to the reading of images), and gives, as far as the experiment asks for them,
    "global_descriptor" [D], "locations" [N, 2] in (y, x) pixels, "descriptors" [N, D], "scores" [N]
    and "scales" [N], float32 tensors; see extraction.extractor.Extractor.

    Args:
      path: a folder that `delf_tf export` wrote, an experiment's .textproto, or the name of a
        shipped config.
      weights: file or published name, instead of the config's.
      overrides: "path.to.field=value", applied to the config in order.
      local_pca: fitted PCA of local descriptors (.npz), instead of the config's.
      allow_imports: packages whose code the config may name: "my_package.module:function".

    Raises:
      InputError: no such folder or config, a damaged one, weights that do not fit, or settings for
        a SavedModel, in which they are fixed.
    """
    if Path(path).is_dir():
        from delf_tf.export import loading  # noqa: PLC0415

        require(
            weights is None and local_pca is None and not overrides,
            "weights, overrides and local_pca must be left out: an exported extractor has its own.",
            path=path,
        )
        return loading.load_saved_extractor(path)
    message = _read(str(path), weights, overrides, allow_imports)
    runtime = Runtime(message, local_pca=local_pca)
    if runtime.needs_local_pca:
        logging.warning("No PCA is given: local descriptors come as the network gives them.")
    return runtime.extractor()


def _read(
    config_name: str,
    weights: StrPath | None,
    overrides: Sequence[str],
    allow_imports: Sequence[str],
) -> experiment_pb2.Experiment:
    message = config.load_experiment(config_name, overrides, allow_imports=allow_imports)
    if weights is not None:
        message.model.weights = str(weights)
    return message
