"""The stages of retrieval from a config's settings, as `retrieve` and `compare` run them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from delf_tf.checks import require
from delf_tf.datasets import folder
from delf_tf.features.store import FeatureStore
from delf_tf.protos import experiment_pb2
from delf_tf.tools import experiment, extract, failures, local_indexes
from delf_tf.types import ImageRef


class Collections(NamedTuple):
    """The images of a run: `queries` is None when the database queries itself.

    `database_dir` is the folder that the database's ids are paths below, if they are.
    """

    database: list[ImageRef]
    queries: list[ImageRef] | None
    labels: dict[str, str] | None
    database_dir: Path | None = None


def check_stages(message: experiment_pb2.Experiment) -> None:
    """Refuses a config whose stages do not fit together, before any work is done.

    Raises:
      InputError: no features of the index's kind to search by, or no local ones to verify with.
    """
    if local_indexes.is_type(message.index.type):
        local_indexes.refuse_global_stages(message)
        require(
            message.extraction.use_local_features,
            "This type of index searches by local features.",
            hint="Set extraction.use_local_features: true.",
            type=message.index.type,
        )
    else:
        require(
            message.extraction.use_global_features,
            "This type of index searches by global descriptors.",
            hint="Set extraction.use_global_features: true, or index.type: asmk or local.",
            type=message.index.type,
        )
    require(
        message.extraction.use_local_features or not message.HasField("rerank"),
        "Re-ranking needs local features.",
        hint="Set extraction.use_local_features: true, or leave out the rerank section.",
        use_local_features=False,
    )


def fit_local_pca(
    message: experiment_pb2.Experiment, collections: Collections, output_dir: Path
) -> Path | None:
    """Fits the PCA that the config asks for: on the distractors where labels name them.

    Returns:
      The path of the fit in `output_dir`; None if the config asks for none.
    """
    if not experiment.needs_local_pca(message):
        return None
    refs = collections.database
    if collections.labels is not None:
        places = folder.places([ref.id for ref in refs], collections.labels)
        refs = [ref for ref, place in zip(refs, places) if not place] or refs
    return experiment.fit_local_pca(message, refs, output_dir)


def extract_collections(
    message: experiment_pb2.Experiment,
    collections: Collections,
    output_dir: Path,
    local_pca: Path | None,
    sharding: extract.Sharding,
) -> tuple[FeatureStore, FeatureStore | None]:
    """Extracts the database, and the queries if they are others, below `output_dir`.

    Failed images are listed there in failed_images.csv.

    Raises:
      InputError: not one image of a collection could be read.
    """
    stores = []
    for name, refs in (("database", collections.database), ("queries", collections.queries)):
        if refs is not None:
            path = extract.extract(
                message, refs, output_dir / name, local_pca=local_pca, sharding=sharding
            )
            stores.append(FeatureStore(path))
            failures.log_summary(stores[-1])
    failed = [pair for store in stores for pair in store.failed().items()]
    listed = failures.write(failed, output_dir)
    for store in stores:
        require(
            bool(store.ids()),
            "At least one image of a collection must be readable.",
            hint=f"{listed} tells what is wrong with each.",
            num_images=len(store),
            num_failed=len(store.failed()),
        )
    return stores[0], stores[1] if len(stores) > 1 else None
