"""One pipeline of a comparison: run, measured, and kept, so that a killed comparison goes on."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from delf_tf import artifacts, config
from delf_tf.checks import InputError
from delf_tf.evaluation.results import SINGLE_STAGE, TWO_STAGE
from delf_tf.pipelines import indexing, reranking, scores, searching
from delf_tf.pipelines.extraction import Collections, Stores
from delf_tf.pipelines.runtime import Runtime
from delf_tf.protos import comparison_pb2, experiment_pb2
from delf_tf.retrieval import ranking_file, rankings
from delf_tf.types import Ranking

# Raise it when the same pipeline gives other results or other costs.
_VERSION = "1"
_NUM_TIMED_QUERIES = 8


class Pipeline(NamedTuple):
    """A row of the comparison."""

    name: str
    message: experiment_pb2.Experiment


@dataclasses.dataclass(frozen=True)
class Costs:
    """What a pipeline costs on this machine.

    Attributes:
      seconds_per_image: from file to features, warm, median.
      bytes_per_image: of its features in the store.
      index_seconds: building the index.
      index_bytes: the index as saved.
      search_seconds: a query, warm, all queries in one batch.
      rerank_seconds: a query; 0 for a single stage.
    """

    seconds_per_image: float
    bytes_per_image: float
    index_seconds: float
    index_bytes: int
    search_seconds: float
    rerank_seconds: float

    @property
    def seconds_per_query(self) -> float:
        """From a query's features to its ranking."""
        return self.search_seconds + self.rerank_seconds


class Result(NamedTuple):
    """A pipeline's ranking and what it costs."""

    ranking: Ranking
    costs: Costs


def read_pipelines(path: str, *, allow_imports: Sequence[str] = ()) -> list[Pipeline]:
    """Reads a comparison's pipelines, each a checked experiment.

    Args:
      path: see `config.load_comparison`.
      allow_imports: see `config.check_imports`.

    Raises:
      UsageError: a comparison or a config that cannot be understood.
      InputError: stages that do not fit together.
    """
    pipelines = []
    for one in config.load_comparison(path).pipelines:
        message = config.load_experiment(
            _config_path(one, path), one.set, allow_imports=allow_imports
        )
        if one.weights:
            message.model.weights = one.weights
        try:
            searching.rehearse(message)
        except InputError as error:
            raise InputError(f"Pipeline {one.name!r}: {error}") from None
        pipelines.append(Pipeline(one.name, message))
    return pipelines


def _config_path(one: comparison_pb2.PipelineConfig, comparison: str) -> str:
    beside = Path(comparison).parent / one.config
    return str(beside) if one.config and beside.is_file() else one.config


def train_missing(pipelines: Sequence[Pipeline], train_file_pattern: str, output_dir: Path) -> None:
    """Trains the pipelines whose configs have a training section and no weights, one by one.

    Each receives the weights; runs below `output_dir` go on where they were.
    """
    from delf_tf.pipelines.training import train  # noqa: PLC0415 - TensorFlow takes seconds to load

    for one in pipelines:
        if one.message.HasField("training") and not one.message.model.weights:
            logging.info("%s: training.", one.name)
            run_dir = output_dir / "training" / one.name
            one.message.model.weights = str(train.train(one.message, train_file_pattern, run_dir))


def shared_extraction(pipelines: Sequence[Pipeline]) -> list[tuple[str, list[Pipeline]]]:
    """Groups the pipelines whose features one extraction gives.

    Returns:
      (fingerprint, pipelines): equal but for which kinds of features they ask for.
    """
    groups: dict[str, list[Pipeline]] = {}
    for one in pipelines:
        fingerprint = Runtime(with_kinds(one.message, True, True)).fingerprint()
        groups.setdefault(fingerprint, []).append(one)
    return list(groups.items())


def with_kinds(
    message: experiment_pb2.Experiment, use_global: bool, use_local: bool
) -> experiment_pb2.Experiment:
    """Returns a copy that extracts these kinds of features."""
    made = copy.deepcopy(message)
    made.extraction.use_global_features = use_global
    made.extraction.use_local_features = use_local
    return made


def run(
    one: Pipeline,
    runtime: Runtime,
    collections: Collections,
    stores: Stores,
    *,
    query_ids: Sequence[str],
    folder: Path,
    verifications_dir: Path,
    num_threads: int,
) -> Result:
    """Ranks, re-ranks and measures one pipeline; what `folder` holds of the same is read.

    Args:
      one: the pipeline.
      runtime: the experiment that extracted the features.
      collections: its images.
      stores: their features.
      query_ids: the queries that can be scored, which are the ones that are re-ranked.
      folder: of this pipeline; receives ranking.npz and costs.json.
      verifications_dir: of all pipelines, which share those of the same pairs.
      num_threads: that verify pairs.
    """
    fingerprint = _fingerprint(one.message, stores, query_ids)
    ranking_path, costs_path = folder / "ranking.npz", folder / "costs.json"
    kept = _kept(ranking_path, costs_path, fingerprint)
    if kept is not None:
        logging.info("%s: done before.", one.name)
        return kept
    logging.info("%s: searching.", one.name)
    ranking, costs = _first_stage(
        # A revisited set's ground truth already names what is left out.
        one.message,
        stores,
        leave_out_same=collections.labels is not None,
    )
    ranking = rankings.aligned(ranking, tuple(query_ids), ranking.database_ids)
    costs["rerank_seconds"] = 0.0
    if one.message.HasField("rerank"):
        ranking, costs["rerank_seconds"] = _second_stage(
            one.message, ranking, stores, verifications_dir, num_threads
        )
    stage = TWO_STAGE if one.message.HasField("rerank") else SINGLE_STAGE
    kinds = {stage: scores.needed_kinds(one.message, stage)}
    measured = scores.extraction_costs(runtime, collections.database, stores.database, kinds)
    result = Result(ranking, Costs(**costs, **measured[stage]))
    ranking_file.save_ranking(ranking_path, ranking, pipeline=one.name, fingerprint=fingerprint)
    artifacts.write_json(
        costs_path, {"fingerprint": fingerprint, **dataclasses.asdict(result.costs)}
    )
    return result


def _first_stage(
    message: experiment_pb2.Experiment, stores: Stores, **kwargs: Any
) -> tuple[Ranking, dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="delf_tf-") as scratch:
        path, index_seconds = scores.timed(
            lambda: indexing.build(message, stores.database, Path(scratch, "index"))
        )
        size = sum(file.stat().st_size for file in Path(scratch).rglob("*") if file.is_file())
        index = indexing.open_index(
            message, path, fingerprint=stores.asked.fingerprint, database=stores.database
        )
        ranking, seconds = scores.timed_search(
            functools.partial(searching.rank, message, index, stores, **kwargs)
        )
    return ranking, {
        "index_seconds": index_seconds,
        "index_bytes": size,
        "search_seconds": seconds,
    }


def _second_stage(
    message: experiment_pb2.Experiment,
    ranking: Ranking,
    stores: Stores,
    verifications_dir: Path,
    num_threads: int,
) -> tuple[Ranking, float]:
    """Re-ranks; the time is that of a few queries, as verifications may be there already."""
    rerank = reranking.method(message, stores.database)

    def rerank_some(some: Ranking, **kwargs: Any) -> Ranking:
        read = reranking.cached_reader(stores.database)
        return rerank(some, stores.asked.read_local, read, num_threads=num_threads, **kwargs)[0]

    step = max(1, len(ranking.query_ids) // _NUM_TIMED_QUERIES)
    few = ranking.query_ids[::step][:_NUM_TIMED_QUERIES]
    timed = rankings.aligned(ranking, few, ranking.database_ids)
    rerank_some(rankings.aligned(ranking, few[:1], ranking.database_ids))
    _, seconds = scores.timed(lambda: rerank_some(timed))
    fingerprint = reranking.heads_identity(message, ranking, stores.asked, stores.database)
    folder = verifications_dir / _head_fingerprint(message, ranking, fingerprint)
    reranked = rerank_some(ranking, verifications_dir=folder, fingerprint=fingerprint)
    return reranked, seconds / max(1, len(few))


def _head_fingerprint(message: experiment_pb2.Experiment, ranking: Ranking, features: str) -> str:
    """Returns the fingerprint of which images are compared, and how; not of what sorts them."""
    settings = reranking.rerank_arguments(message)
    for name in ("score", "weight", "min_inliers", "probability"):
        settings.pop(name, None)
    learned = settings.pop("learned", None)
    how = [json.dumps(settings, sort_keys=True), "" if learned is None else learned.fingerprint]
    head = ranking.indices[:, : settings["num_candidates"]]
    return artifacts.fingerprint(features, *how, head.tobytes())


def _fingerprint(
    message: experiment_pb2.Experiment, stores: Stores, query_ids: Sequence[str]
) -> str:
    parts = [_VERSION, stores.database.identity(), *stores.database.ids(), "queries", *query_ids]
    parts += [] if stores.queries is None else [stores.queries.identity()]
    files = [message.index.whitening, message.index.asmk.codebook]
    parts += [artifacts.file_fingerprint(file) for file in files if file and Path(file).is_file()]
    return config.fingerprint(message, *parts)


def _kept(ranking_path: Path, costs_path: Path, fingerprint: str) -> Result | None:
    if not (ranking_path.is_file() and costs_path.is_file()):
        return None
    costs: Mapping[str, Any] = json.loads(costs_path.read_text(encoding="utf-8"))
    if costs.get("fingerprint") != fingerprint:
        return None
    names = [field.name for field in dataclasses.fields(Costs)]
    return Result(
        ranking_file.load_ranking(ranking_path), Costs(**{name: costs[name] for name in names})
    )
