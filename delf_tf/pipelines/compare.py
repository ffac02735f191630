"""One stage or two? Any list of pipelines on the same images, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, UsageError, require
from delf_tf.datasets import folder, revisitop
from delf_tf.evaluation import results
from delf_tf.evaluation.metrics import RankingMetrics
from delf_tf.evaluation.significance import paired_test
from delf_tf.pipelines import extraction, measured_pipeline, protocols, searching
from delf_tf.pipelines.extraction import Collections, Stores
from delf_tf.pipelines.measured_pipeline import Pipeline, Result
from delf_tf.pipelines.runtime import Runtime
from delf_tf.report import comparison_page, judged, tables


class Comparison(NamedTuple):
    """What `compare` made: the page's path, the figures of comparison.json, and their table."""

    page: Path
    figures: dict[str, Any]
    table: tables.Table


class Scored(NamedTuple):
    """A pipeline with its result, and its metrics by protocol."""

    pipeline: Pipeline
    result: Result
    metrics: Mapping[str, RankingMetrics]


def compare(
    pipelines: Sequence[Pipeline],
    collections: Collections,
    truth_path: str,
    output_dir: Path,
    *,
    num_threads: int = 2,
    num_report_queries: int = 12,
) -> Comparison:
    """Runs every pipeline into `output_dir`; what is there already is taken from there.

    Args:
      pipelines: the first is what the others are tested against.
      collections: the images.
      truth_path: the ground truth: labels (.csv), or that of a revisited set.
      output_dir: receives comparison.json, comparison.html and all that is made.
      num_threads: that decode images and verify pairs.
      num_report_queries: most queries shown on the page.

    Raises:
      InputError: a pipeline that cannot run, which is named.
    """
    scored = run_all(pipelines, collections, truth_path, output_dir, num_threads=num_threads)
    figures = comparison_json(scored, collections, truth_path)
    results.save_results(output_dir / "comparison.json", figures)
    shown = comparison_page.shown_protocol(list(scored[0].metrics))
    page = comparison_page.write(
        output_dir / "comparison.html",
        figures,
        {
            one.pipeline.name: judged.Judged(
                *protocols.with_ground_truth(one.result.ranking, truth_path)[shown],
                one.metrics[shown].per_query_ap,
            )
            for one in scored
        },
        judged.Pictures(*collections.by_id()),
        num_queries=num_report_queries,
    )
    return Comparison(page, figures, comparison_page.table(figures))


def read_collections(
    database_dir: StrPath, query_dir: StrPath | None, truth_path: StrPath
) -> Collections:
    """Names the images: a folder's, or those of a revisited set's ground truth.

    Raises:
      UsageError: a revisited set with a folder of queries.
      InputError: no such folder or ground truth.
    """
    if Path(truth_path).suffix.lower() == ".csv":
        return extraction.read_collections(database_dir, query_dir, truth_path)
    if query_dir:
        raise UsageError("--query_dir must be left out: the ground truth names the queries.")
    queries, database = revisitop.read_ground_truth(truth_path).image_refs(database_dir)
    return Collections(database, queries, None)


def run_all(
    pipelines: Sequence[Pipeline],
    collections: Collections,
    truth_path: str,
    output_dir: Path,
    *,
    num_threads: int = 2,
) -> list[Scored]:
    """Runs every pipeline and scores it; those with the same features share a network and them."""
    done = {}
    for fingerprint, group in measured_pipeline.shared_extraction(pipelines):
        runtime = _opened(group)
        sharding = extraction.Sharding(num_threads=num_threads)
        stores = extraction.extract_collections(
            runtime, collections, output_dir / "features" / fingerprint, sharding
        )
        query_ids = _scored_queries(stores, collections)
        for one in group:
            try:
                result = measured_pipeline.run(
                    one,
                    runtime,
                    collections,
                    stores,
                    query_ids=query_ids,
                    folder=output_dir / "pipelines" / one.name,
                    verifications_dir=output_dir / "verifications",
                    num_threads=num_threads,
                )
            except InputError as error:
                raise InputError(f"Pipeline {one.name!r}: {error}") from None
            metrics = protocols.ranking_metrics(result.ranking, truth_path)
            done[one.name] = Scored(one, result, metrics)
    return [done[one.name] for one in pipelines]


def _opened(group: Sequence[Pipeline]) -> Runtime:
    """Opens the experiment that extracts what all pipelines of a group need."""
    settings = [one.message.extraction for one in group]
    return Runtime(
        measured_pipeline.with_kinds(
            group[0].message,
            any(one.use_global_features for one in settings),
            any(one.use_local_features for one in settings),
        )
    )


def _scored_queries(stores: Stores, collections: Collections) -> list[str]:
    """Returns the queries that have a positive; all of a revisited set's."""
    queries = stores.asked
    if collections.labels is None:
        require(
            not queries.failed(),
            "Every query of the benchmark must be readable.",
            hint="failed_images.csv in the output's features gives the reasons.",
            failed=list(queries.failed())[:3],
        )
        return list(queries.ids())
    left_out = searching.same_pictures(stores)
    truth = folder.ground_truth(queries.ids(), stores.database.ids(), collections.labels, left_out)
    asked = [one for one, positives in zip(queries.ids(), truth.positives) if len(positives)]
    require(
        bool(asked),
        "At least one query must have another image of its place in the database.",
        num_queries=len(queries.ids()),
    )
    return asked


def comparison_json(
    scored: Sequence[Scored], collections: Collections, truth_path: str
) -> dict[str, Any]:
    """Returns the content of comparison.json: figures, costs, and tests against the first."""
    first = scored[0]
    blocks = []
    for one in scored:
        two_stage = one.pipeline.message.HasField("rerank")
        conditions = results.Conditions(collections.labels is None, True if two_stage else None)
        places = None
        if collections.labels is not None:
            places = folder.places(one.result.ranking.query_ids, collections.labels)
        blocks.append(
            {
                "name": one.pipeline.name,
                "stages": 2 if two_stage else 1,
                "protocols": {
                    name: results.ranking_results(metrics, conditions, places=places)
                    for name, metrics in one.metrics.items()
                },
                "against_first": {
                    name: paired_test(first.metrics[name].per_query_ap, metrics.per_query_ap)
                    for name, metrics in one.metrics.items()
                    if one is not first
                },
                "costs": {
                    **one.result.costs.__dict__,
                    "seconds_per_query": one.result.costs.seconds_per_query,
                },
            }
        )
    return results.json_ready(
        {
            "ground_truth": Path(truth_path).name,
            "num_database_images": len(first.result.ranking.database_ids),
            "num_queries": len(first.result.ranking.query_ids),
            "queries_cropped": collections.labels is None,
            "pipelines": blocks,
        }
    )
