"""Folders of images to features, rankings, scores and a report: all stages of a config."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from google.protobuf import text_format

from delf_tf import artifacts, config
from delf_tf.checks import invalid, require
from delf_tf.datasets import folder
from delf_tf.evaluation.results import SINGLE_STAGE, TWO_STAGE
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import drawing, indexing, reranking, scores, searching, stages
from delf_tf.pipelines.extraction import Collections, Sharding, Stores, extract_collections
from delf_tf.pipelines.runtime import Runtime
from delf_tf.protos import experiment_pb2
from delf_tf.report import judged, retrieval_page, tables
from delf_tf.retrieval import ranking_file
from delf_tf.types import Ranking

_FACTS = "retrieval.json"
_MAX_FACTS_BYTES = 1 << 20


class Retrieved(NamedTuple):
    """What `retrieve` made: the report's path, the table of its stages, the database's features."""

    report: Path
    table: tables.Table
    database: FeatureStore


class Folder(NamedTuple):
    """An output folder of `retrieve`: its experiment, features, and where the images are."""

    message: experiment_pb2.Experiment
    store: Path
    images_dir: Path


class _Ranked(NamedTuple):
    """By stage its ranking and the seconds a query of it and those before; the verifications."""

    rankings: dict[str, Ranking]
    seconds: dict[str, float]
    verified: retrieval_page.Verified | None


def retrieve(
    runtime: Runtime,
    collections: Collections,
    output_dir: Path,
    *,
    sharding: Sharding,
    num_report_queries: int = 12,
) -> Retrieved:
    """Runs all stages into `output_dir`; what it holds of the same is taken from there.

    Args:
      runtime: the experiment.
      collections: the images; with labels the rankings are scored.
      output_dir: receives report.html, metrics.json (with labels), the rankings, the features and
        failed_images.csv.
      sharding: threads that decode images and verify pairs, and whether to start anew.
      num_report_queries: most queries shown in the report.

    Raises:
      InputError: stages that do not fit together, no readable image, features of another config.
    """
    message = runtime.message
    searching.rehearse(message)
    stores = extract_collections(runtime, collections, output_dir, sharding)
    write_facts(output_dir, message, collections.database_dir)
    ranked = _rank(message, stores, sharding.num_threads)
    last = list(ranked.rankings)[-1]
    for name, stage in (("ranking_single_stage", SINGLE_STAGE), ("ranking", last)):
        ranking_file.save_ranking(
            output_dir / f"{name}.npz",
            ranked.rankings[stage],
            stage=stage,
            fingerprint=stores.database.fingerprint,
        )
    kinds = {stage: scores.needed_kinds(message, stage) for stage in ranked.rankings}
    costs = scores.extraction_costs(runtime, collections.database, stores.database, kinds)
    scored, shown = scores.score_rankings(
        ranked.rankings,
        collections.labels,
        {
            stage: {**costs[stage], "seconds_per_query": ranked.seconds[stage]}
            for stage in ranked.rankings
        },
        stages.first_stage_conditions(message),
    )
    if collections.labels is not None:
        artifacts.write_json(output_dir / "metrics.json", scored)
    table = scores.summary_table(scored)
    report = retrieval_page.write(
        output_dir / "report.html",
        shown,
        pictures=judged.Pictures(*collections.by_id()),
        places=_places(ranked.rankings[SINGLE_STAGE], collections.labels),
        verified=ranked.verified,
        # A SavedModel of the original does not tell what it looks at.
        paint=None if runtime.has_saved_model else drawing.painter(runtime),
        table=table,
        model_name=message.model.name,
        num_queries=num_report_queries,
    )
    return Retrieved(report, table, stores.database)


def write_facts(
    output_dir: Path, message: experiment_pb2.Experiment, images_dir: Path | None
) -> None:
    """Writes down how the folder was made; nothing if its images are not those of one folder."""
    if images_dir is not None:
        facts = {
            "images_dir": str(images_dir.resolve()),
            "config": text_format.MessageToString(message),
        }
        artifacts.write_json(output_dir / _FACTS, facts)


def is_folder(path: artifacts.StrPath) -> bool:
    """Whether `path` is an output folder of `retrieve`."""
    return Path(path, _FACTS).is_file()


def read_folder(
    path: artifacts.StrPath, overrides: Sequence[str] = (), *, allow_imports: Sequence[str] = ()
) -> Folder:
    """Reads how an output folder was made.

    Args:
      path: of the folder.
      overrides: "path.to.field=value", applied to its config in order.
      allow_imports: see `config.check_imports`.

    Raises:
      InputError: damaged, too large, or its config names code that is not allowed.
    """
    file = Path(path, _FACTS)
    what, hint = "An output folder of retrieve", "Run retrieve again; its features are kept."
    require(file.is_file(), f"{what} must be named.", hint=hint, path=file)
    facts = artifacts.read_json(file, f"{what}'s {_FACTS}", hint=hint, max_bytes=_MAX_FACTS_BYTES)
    try:
        text, images_dir = str(facts["config"]), Path(str(facts["images_dir"]))
    except (KeyError, TypeError) as error:
        raise invalid(
            f"{what} must hold its config and images.", hint=hint, path=file, fault=repr(error)
        ) from None
    message = config.parse(text, experiment_pb2.Experiment, source=str(file))
    for override in overrides:
        config.apply_override(message, override)
    config.check_imports(message, allow_imports)
    return Folder(message, Path(path, "database"), images_dir)


def _rank(message: experiment_pb2.Experiment, stores: Stores, num_threads: int) -> _Ranked:
    asked, database = stores.asked, stores.database
    searching.require_same_features(asked, database)
    index = indexing.index_store(message, database)
    first, seconds = scores.timed_search(functools.partial(searching.rank, message, index, stores))
    if not message.HasField("rerank"):
        return _Ranked({SINGLE_STAGE: first}, {SINGLE_STAGE: seconds}, None)
    read = reranking.cached_reader(database)
    (second, found), more = scores.timed(
        lambda: reranking.method(message, database)(
            first, asked.read_local, read, num_threads=num_threads
        )
    )
    return _Ranked(
        {SINGLE_STAGE: first, TWO_STAGE: second},
        {SINGLE_STAGE: seconds, TWO_STAGE: seconds + more / max(1, len(first.query_ids))},
        retrieval_page.Verified(found, asked.read_local, read),
    )


def _places(ranking: Ranking, labels: dict[str, str] | None) -> dict[str, str] | None:
    """Returns the place of every image by its id, which may be longer than what labels call it."""
    if labels is None:
        return None
    return {
        one: place
        for ids in (ranking.database_ids, ranking.query_ids)
        for one, place in zip(ids, folder.places(ids, labels))
    }
