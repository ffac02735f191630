"""Indexes of local features from a config's settings: ASMK, and DELF's own index of votes."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.features.store import FeatureStore
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import local_search
from delf_tf.retrieval.words.codebook import load_codebook
from delf_tf.retrieval.words.codebook_checkpoint import read_codebook_checkpoint
from delf_tf.tools import settings
from delf_tf.types import Ranking


def is_type(type_: str) -> bool:
    """Whether a config's type of index is one of local features."""
    return type_ in local_search.LOCAL_KINDS


def build(
    message: experiment_pb2.Experiment,
    store: FeatureStore,
    folder: StrPath,
    *,
    overwrite: bool = False,
) -> Path:
    """Builds the index that the config names, of a store's local features; returns its folder.

    Raises:
      InputError: a store without local features or images, settings that do not fit.
    """
    refuse_global_stages(message)
    require(bool(store.ids()), "An index must be built of at least one image.", path=store.path)
    common = {"fingerprint": store.fingerprint, "overwrite": overwrite}
    if message.index.type == "asmk":
        asmk = message.index.asmk
        return local_search.build_asmk(
            folder,
            store.ids(),
            reader(store),
            codebook=_codebook(asmk.codebook) if asmk.codebook else None,
            num_words=asmk.num_words,
            binary=asmk.binary,
            use_idf=asmk.use_idf,
            query_assignments=asmk.query_assignments,
            alpha=asmk.alpha,
            similarity_threshold=asmk.similarity_threshold,
            **common,
        )
    local = message.index.local
    return local_search.build_local(
        folder,
        store.ids(),
        reader(store),
        factory=local.factory,
        num_neighbors=local.num_neighbors,
        num_probes=local.num_probes,
        **common,
    )


def open_index(
    message: experiment_pb2.Experiment,
    folder: StrPath,
    queries: FeatureStore,
    *,
    exclude_self: bool,
) -> Callable[[], Ranking]:
    """Loads an index and returns the search for every image of `queries`."""
    refuse_global_stages(message)
    return functools.partial(
        local_search.search_local,
        local_search.load_local(folder, fingerprint=queries.fingerprint),
        queries.ids(),
        reader(queries),
        message.index.max_results,
        exclude_self=exclude_self,
    )


def search_stores(
    message: experiment_pb2.Experiment, database: FeatureStore, queries: FeatureStore | None
) -> Ranking:
    """Builds an index that is not kept, and searches it."""
    with tempfile.TemporaryDirectory(prefix="delf_tf-") as folder:
        build(message, database, folder)
        asked = database if queries is None else queries
        return open_index(message, folder, asked, exclude_self=queries is None)()


def reader(store: FeatureStore) -> Callable[[str], np.ndarray]:
    """Returns a function that gives an image's local descriptors [N, D]."""
    return functools.partial(_descriptors, store)


def refuse_global_stages(message: experiment_pb2.Experiment) -> None:
    """Refuses stages that need global descriptors beside an index of local features.

    Raises:
      InputError: naming them.
    """
    stages = {**settings.search_arguments(message), "whitening": message.index.whitening or None}
    stages["database_augmentation"] = settings.augmentation_arguments(message)
    given = [name for name, value in stages.items() if value is not None]
    require(
        not given,
        "Expansion, augmentation, whitening and global re-ranking need an index of global "
        "descriptors.",
        hint="Leave these out of the config, or choose another index.type.",
        given=given,
    )


def _codebook(path: str) -> np.ndarray:
    """Reads a codebook of ours, or the original's TensorFlow checkpoint by its prefix."""
    if Path(f"{path}.index").is_file():
        return read_codebook_checkpoint(path)
    return load_codebook(path)


def _descriptors(store: FeatureStore, one: str) -> np.ndarray:
    return store.read_local(one).descriptors
