"""Which stages a config has around its index, and whether they fit together."""

from __future__ import annotations

from typing import Any

from delf_tf import config
from delf_tf.checks import require
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import local_search
from delf_tf.retrieval.vectors import expansion, superglobal


def by_local_features(message: experiment_pb2.Experiment) -> bool:
    """Whether the config's type of index is one of local features."""
    return message.index.type in local_search.LOCAL_KINDS


def check_stages(message: experiment_pb2.Experiment) -> None:
    """Refuses a config whose stages do not fit together, before any work is done.

    Raises:
      InputError: no features of the index's kind to search by, or no local ones to verify with.
    """
    if by_local_features(message):
        refuse_global_stages(message)
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


def first_stage_conditions(message: experiment_pb2.Experiment) -> dict[str, Any]:
    """Returns what metrics of the single stage were made with; None for a stage left out."""
    return {
        "index": message.index.type,
        "index_whitening": bool(message.index.whitening),
        "database_augmentation": augmentation(message),
        **around_search(message),
    }


def refuse_global_stages(message: experiment_pb2.Experiment) -> None:
    """Refuses stages that need global descriptors beside an index of local features.

    Raises:
      InputError: naming them.
    """
    stages = {**around_search(message), "whitening": message.index.whitening or None}
    stages["database_augmentation"] = augmentation(message)
    given = [name for name, value in stages.items() if value is not None]
    require(
        not given,
        "Expansion, augmentation, whitening and global re-ranking need an index of global "
        "descriptors.",
        hint="Leave these out of the config, or choose another index.type.",
        given=given,
    )


def around_search(message: experiment_pb2.Experiment) -> dict[str, dict[str, Any] | None]:
    """Returns the arguments of the stages around a search; None for one that is left out."""
    functions = {
        "query_expansion": expansion.expand_queries,
        "global_rerank": superglobal.rerank_global,
    }
    return {
        name: config.arguments(getattr(message, name), function) if message.HasField(name) else None
        for name, function in functions.items()
    }


def augmentation(message: experiment_pb2.Experiment) -> dict[str, Any] | None:
    """Returns the arguments of the database's augmentation; None if it is left out."""
    if not message.HasField("database_augmentation"):
        return None
    return config.arguments(message.database_augmentation, expansion.augment_database)
