"""From a config's search sections to plain arguments; a config may be left out here."""

from __future__ import annotations

from typing import Any

from absl import flags

from delf_tf import config
from delf_tf.checks import require
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval.vectors import whitening
from delf_tf.retrieval.vectors.vector_index import VectorIndex


def optional_experiment(flag_values: flags.FlagValues) -> experiment_pb2.Experiment:
    """Reads --config and --set; without --config, the overrides of all defaults.

    Raises:
      UsageError: a config or an override that cannot be understood.
    """
    if flag_values.config:
        return config.load_experiment(flag_values.config, flag_values.set)
    message = experiment_pb2.Experiment()
    for override in flag_values["set"].value:
        config.apply_override(message, override)
    return message


def define_flags(flag_values: flags.FlagValues) -> None:
    """Adds --config and --set to a tool that runs without them too."""
    flags.DEFINE_string(
        "config",
        None,
        "experiment whose search settings count; not given: the defaults",
        flag_values=flag_values,
    )
    flags.DEFINE_multi_string(
        "set",
        [],
        "override of the config, path.to.field=value; repeatable",
        flag_values=flag_values,
    )


def index_arguments(message: experiment_pb2.Experiment) -> dict[str, Any]:
    """Returns the keyword arguments of `create_index`, type aside."""
    settings = message.index
    return {
        "dtype": settings.dtype,
        "whitening": whitening.load_whitening(settings.whitening) if settings.whitening else None,
        "already_whitened": bool(message.extraction.global_pca.path),
    }


def augmentation_arguments(message: experiment_pb2.Experiment) -> dict[str, Any] | None:
    """Returns the arguments of `augment_database`, or None."""
    if not message.HasField("database_augmentation"):
        return None
    return _expansion(message.database_augmentation)


def search_arguments(message: experiment_pb2.Experiment) -> dict[str, Any]:
    """Returns the stages around a search, as `search_first_stage` takes them."""
    expansion, refined = message.query_expansion, message.global_rerank
    return {
        "query_expansion": _expansion(expansion) if message.HasField("query_expansion") else None,
        "global_rerank": {
            "num_candidates": refined.num_candidates,
            "num_neighbours": refined.num_neighbours,
            "beta": refined.beta,
        }
        if message.HasField("global_rerank")
        else None,
    }


def set_effort(index: VectorIndex, message: experiment_pb2.Experiment) -> None:
    """Gives a faiss index the config's cells visited and results re-scored, where it names them."""
    for name, least in (("num_probes", 1), ("num_rescored", 0)):
        value = getattr(message.index, name)
        require(value >= least, f"index.{name} must be {least} or more.", **{name: value})
        if message.index.HasField(name) and hasattr(index, name):
            setattr(index, name, value)


def first_stage_conditions(message: experiment_pb2.Experiment) -> dict[str, Any]:
    """Returns what metrics of the single stage were made with; None for a stage left out."""
    return {
        "index": message.index.type,
        "index_whitening": bool(message.index.whitening),
        "database_augmentation": augmentation_arguments(message),
        **search_arguments(message),
    }


def _expansion(section: experiment_pb2.ExpansionConfig) -> dict[str, Any]:
    return {"num_neighbours": section.num_neighbours, "alpha": section.alpha}
