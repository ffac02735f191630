"""Feature stores to indexes: built, added to and opened as a config says."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from delf_tf import config
from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, invalid, require, require_absent
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import stages
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import local_search, search
from delf_tf.retrieval.changes import compare_images
from delf_tf.retrieval.vectors import first_stage, index
from delf_tf.retrieval.vectors.milvus_index import MilvusIndex
from delf_tf.retrieval.vectors.vector_index import VectorIndex
from delf_tf.retrieval.vectors.whitening import Whitening, load_whitening, same_whitening
from delf_tf.retrieval.votes import LocalIndex
from delf_tf.retrieval.words.asmk import AsmkIndex
from delf_tf.retrieval.words.codebook import load_codebook
from delf_tf.types import GlobalDescriptors


def build(
    message: experiment_pb2.Experiment,
    store: FeatureStore,
    path: StrPath,
    *,
    overwrite: bool = False,
    **kwargs: Any,
) -> Path:
    """Builds the index that the config names, of a store's features, or makes it follow the store.

    An index that is there keeps what it learned: cells, codes, a codebook.

    Args:
      message: the experiment.
      store: the database.
      path: a file for global descriptors, a folder for local features, where a build that was
        killed goes on.
      overwrite: replace what is at `path`.
      **kwargs: of an index of global descriptors, see `create_index`.

    Returns:
      `path`.

    Raises:
      InputError: a store without the features or without images, settings that do not fit, an
        index that was made with other settings.
    """
    if stages.by_local_features(message):
        return _build_local(message, store, path, overwrite)
    if overwrite or not Path(path).is_file():
        _require_new(path, overwrite)
        made = _build_global(message, store, **kwargs)
        made.contents = contents(store)
        return made.save(path)
    try:
        before = index.load_index(path, fingerprint=store.fingerprint)
    except InputError as error:
        raise invalid(
            "A file that is there must be an index of these features, to follow its store.",
            hint="--overwrite replaces it.",
            path=Path(path),
            fault=str(error),
        ) from None
    if message.index.type == "milvus":
        return _follow_in_engine(message, store, before, path)
    made = _build_global(message, store, learned=before, **kwargs)
    made.contents = contents(store)
    _require_same_settings(message, made, before, path)
    changes = compare_images(before.ids, before.contents, made.ids, made.contents)
    logging.info("%s: %s.", path, changes)
    return made.save(path)


def open_index(
    message: experiment_pb2.Experiment,
    path: StrPath,
    *,
    fingerprint: str,
    database: FeatureStore | None = None,
) -> search.Index:
    """Opens an index with the config's effort and stages; see retrieval.search.open_index."""
    if local_search.is_local(path):
        stages.refuse_global_stages(message)
    return search.open_index(
        path,
        fingerprint=fingerprint,
        database=database,
        effort=_given(message, "num_probes", "num_rescored"),
        whitening=_whitening(message) if "://" in str(path) else None,
        **stages.around_search(message),
    )


def index_store(message: experiment_pb2.Experiment, store: FeatureStore) -> search.Index:
    """Builds the index that the config names, to search it at once; nothing is kept on disk."""
    if not stages.by_local_features(message):
        return search.GlobalSearch(_build_global(message, store), **stages.around_search(message))
    with tempfile.TemporaryDirectory(prefix="delf_tf-") as folder:
        path = _build_local(message, store, folder, overwrite=False)
        return open_index(message, path, fingerprint=store.fingerprint)


def add(
    path: StrPath,
    store: FeatureStore,
    output: StrPath | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Adds the images that an index lacks, and writes it.

    Args:
      path: of the index.
      store: the images.
      output: where it is written; None: to where it is, as it must be for local features.
      overwrite: replace what is at `output`.

    Returns:
      The path that was written.

    Raises:
      InputError: no index, one of other features, or an output where there can be none.
    """
    if local_search.is_local(path):
        require(
            output is None,
            "An index of local features must be added to where it is.",
            hint="Leave out --output, or copy the folder first.",
            output=output,
        )
        folder, num_added = local_search.add_to_local(
            path,
            store.ids(),
            search.local_descriptors(store),
            contents=contents(store),
            fingerprint=store.fingerprint,
        )
        _log_added(num_added, store)
        return folder
    if output is not None:
        _require_new(output, overwrite)
    made = index.load_index(path, fingerprint=store.fingerprint)
    known, before = set(made.ids), len(made)
    made.contents = {**contents(store), **made.contents}
    for ids, vectors in store.global_blocks():
        new = [row for row, one in enumerate(ids) if one not in known]
        if new:
            made.add(GlobalDescriptors(tuple(ids[row] for row in new), vectors[new]))
    _log_added(len(made) - before, store)
    return made.save(path if output is None else output)


def _require_same_settings(
    message: experiment_pb2.Experiment, made: VectorIndex, before: VectorIndex, path: StrPath
) -> None:
    """Refuses to replace an index by one of another kind, but for what "auto" chooses by size."""
    if message.index.type == "auto":
        return
    kinds = [
        {"kind": one.kind, **one.parameters(), "num_probes": 0, "num_rescored": 0}
        for one in (before, made)
    ]
    differing = {
        name: f"{kinds[0].get(name)} there, {kinds[1].get(name)} now"
        for name in kinds[1]
        if kinds[0].get(name) != kinds[1].get(name)
    }
    require(
        not differing,
        "An index that follows its store must be built with the settings of before.",
        hint="Give --overwrite to replace it.",
        path=Path(path),
        **differing,
    )


def _follow_in_engine(
    message: experiment_pb2.Experiment, store: FeatureStore, before: VectorIndex, path: StrPath
) -> Path:
    """Makes an index in Milvus follow its store by adding and deleting rows of its collection."""
    whitening = _whitening(message)
    if not isinstance(before, MilvusIndex) or not (
        stages.augmentation(message) is None and same_whitening(before.whitening, whitening)
    ):
        raise invalid(
            "An index that follows its store in Milvus must be there already, with the same "
            "whitening, and have no database augmentation.",
            hint="Give --overwrite to replace it.",
            path=Path(path),
            kind=before.kind,
            whitening=message.index.whitening,
        )
    changes = before.follow(store.ids(), contents(store), store.global_blocks())
    logging.info("%s: %s.", path, changes)
    return before.save(path)


def contents(store: FeatureStore) -> dict[str, str]:
    """Returns by id what changes with an image's file."""
    return {one: source.digest for one, source in store.sources()}


def _build_global(
    message: experiment_pb2.Experiment, store: FeatureStore, **kwargs: Any
) -> VectorIndex:
    made = first_stage.build_first_stage(
        store.global_blocks,
        message.index.type,
        num_images=len(store.ids()),
        database_augmentation=stages.augmentation(message),
        fingerprint=store.fingerprint,
        whitening=_whitening(message),
        already_whitened=bool(message.extraction.global_pca.path),
        **_given(message, "dtype"),
        **kwargs,
    )
    made.set_effort(**_given(message, "num_probes", "num_rescored"))
    return made


def _given(message: experiment_pb2.Experiment, *names: str) -> dict[str, Any]:
    """Returns those of the index's fields that the config sets."""
    given = config.set_fields(message.index)
    return {name: given[name] for name in names if name in given}


def _whitening(message: experiment_pb2.Experiment) -> Whitening | None:
    return load_whitening(message.index.whitening) if message.index.whitening else None


def _build_local(
    message: experiment_pb2.Experiment, store: FeatureStore, folder: StrPath, overwrite: bool
) -> Path:
    stages.refuse_global_stages(message)
    require(bool(store.ids()), "An index must be built of at least one image.", path=store.path)
    common = {
        "fingerprint": store.fingerprint,
        "contents": contents(store),
        "overwrite": overwrite,
    }
    images = store.ids(), search.local_descriptors(store)
    if message.index.type == "asmk":
        settings = config.arguments(message.index.asmk, local_search.build_asmk, AsmkIndex)
        if settings["codebook"] is not None:
            settings["codebook"] = _codebook(settings["codebook"])
        return local_search.build_asmk(folder, *images, **common, **settings)
    settings = config.arguments(message.index.local, LocalIndex.train, LocalIndex)
    return local_search.build_local(folder, *images, **common, **settings)


def _codebook(path: str) -> np.ndarray:
    """Reads a codebook of ours, or the original's TensorFlow checkpoint by its prefix."""
    if Path(f"{path}.index").is_file():
        from delf_tf.models.zoo import codebook_checkpoint  # noqa: PLC0415 - loads TensorFlow

        return codebook_checkpoint.read_codebook_checkpoint(path)
    return load_codebook(path)


def _require_new(path: StrPath, overwrite: bool) -> None:
    require_absent("The index", path, overwrite, hint="--overwrite replaces it, --add_to adds.")


def _log_added(num_added: int, store: FeatureStore) -> None:
    num_there = len(store.ids()) - num_added
    logging.info("%d images added; %d were there already.", num_added, num_there)
