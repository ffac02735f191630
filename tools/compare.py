"""compare: one stage or two? Any list of pipelines on the same images, side by side.

delf_tf compare --config=COMPARISON --database_dir=DIR --labels=labels.csv --output_dir=OUT
  [--query_dir=DIR]
delf_tf compare --config=COMPARISON --database_dir=DIR --ground_truth=gnd_roxford5k.pkl
  --output_dir=OUT
delf_tf compare --config=dolg_ablations --train_file_pattern='records/train*' …

A comparison is a .textproto that lists pipelines, each an experiment's config with overrides; see
configs/comparisons. Pipelines with the same features extract them once. OUT receives
comparison.json, comparison.html, and everything below it that was made; the same command again goes
on from there. With a revisited set's ground truth, --database_dir holds its queries as well, which
are cropped to their boxes. Every test is against the first pipeline. With --train_file_pattern,
pipelines whose configs train and name no weights are trained first, into OUT.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from delf_tf.checks import InputError, UsageError, require
from delf_tf.datasets import folder, revisitop
from delf_tf.evaluation import results
from delf_tf.evaluation.metrics import RankingMetrics
from delf_tf.evaluation.significance import paired_test
from delf_tf.features.store import FeatureStore
from delf_tf.tools import command_line, compared, comparison_report, extract, pipeline, protocols
from delf_tf.tools.compared import Pipeline, Result

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "config",
    "compact_systems",
    "comparison: a .textproto file or the name of a shipped one",
    flag_values=FLAGS,
)
flags.DEFINE_string("database_dir", None, "folder of images to search in", flag_values=FLAGS)
flags.DEFINE_string(
    "query_dir", None, "folder of query images; not given: the database itself", flag_values=FLAGS
)
flags.DEFINE_string("ground_truth", None, "labels .csv, gnd_*.pkl or gnd_*.mat", flag_values=FLAGS)
flags.DEFINE_alias("labels", "ground_truth", flag_values=FLAGS)
flags.DEFINE_string(
    "train_file_pattern",
    None,
    "TFRecord shards to train on what has no weights",
    flag_values=FLAGS,
)
flags.DEFINE_string("output_dir", None, "folder for everything that is made", flag_values=FLAGS)
command_line.define_count(FLAGS, "num_threads", 2, "threads that decode images and verify pairs")
command_line.define_count(FLAGS, "num_report_queries", 12, "queries shown in the report", least=0)
flags.DEFINE_boolean("json", False, "print JSON instead of the table", flag_values=FLAGS)


class Scored(NamedTuple):
    """A pipeline with its result, and its metrics by protocol."""

    pipeline: Pipeline
    result: Result
    metrics: Mapping[str, RankingMetrics]


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    database_dir, truth_path, output_dir = command_line.required(
        flag_values, "database_dir", "ground_truth", "output_dir"
    )
    pipelines = compared.read_pipelines(flag_values.config)
    collections = read_collections(database_dir, flag_values.query_dir, truth_path)
    if flag_values.train_file_pattern:
        compared.train_missing(pipelines, flag_values.train_file_pattern, Path(output_dir))
    scored = compare(
        pipelines,
        collections,
        truth_path,
        Path(output_dir),
        num_threads=flag_values.num_threads,
    )
    figures = comparison_json(scored, collections, truth_path)
    results.save_results(Path(output_dir, "comparison.json"), figures)
    table = comparison_report.table(figures)
    page = comparison_report.write(
        Path(output_dir, "comparison.html"),
        figures,
        {one.pipeline.name: one.result.ranking for one in scored},
        collections,
        truth_path,
        num_queries=flag_values.num_report_queries,
    )
    shown = command_line.to_json(figures) if flag_values.json else f"{table.to_text()}\n\n{page}"
    command_line.write_result(shown)


def read_collections(
    database_dir: str, query_dir: str | None, truth_path: str
) -> pipeline.Collections:
    """Names the images: a folder's, or those of a revisited set's ground truth.

    Raises:
      UsageError: a revisited set with a folder of queries.
      InputError: no such folder or ground truth.
    """
    if Path(truth_path).suffix.lower() == ".csv":
        return pipeline.Collections(
            folder.list_images(database_dir),
            folder.list_images(query_dir) if query_dir else None,
            folder.read_labels(truth_path),
        )
    if query_dir:
        raise UsageError("--query_dir must be left out: the ground truth names the queries.")
    queries, database = revisitop.read_ground_truth(truth_path).image_refs(database_dir)
    return pipeline.Collections(database, queries, None)


def compare(
    pipelines: Sequence[Pipeline],
    collections: pipeline.Collections,
    truth_path: str,
    output_dir: Path,
    *,
    num_threads: int = 2,
) -> list[Scored]:
    """Runs every pipeline into `output_dir`; what is there already is taken from there."""
    done = {}
    for fingerprint, group in compared.shared_extraction(pipelines):
        stores = _extract(group, collections, output_dir / "features" / fingerprint, num_threads)
        queries = stores.database if stores.queries is None else stores.queries
        query_ids = _scored_queries(queries, stores.database, collections)
        for one in group:
            at = output_dir / "pipelines" / one.name
            try:
                result = compared.run(
                    one, collections, stores, query_ids, at, num_threads=num_threads
                )
            except InputError as error:
                raise InputError(f"Pipeline {one.name!r}: {error}") from None
            done[one.name] = Scored(
                one, result, protocols.ranking_metrics(result.ranking, truth_path)
            )
    return [done[one.name] for one in pipelines]


def _extract(
    group: Sequence[Pipeline], collections: pipeline.Collections, at: Path, num_threads: int
) -> compared.Stores:
    settings = [one.message.extraction for one in group]
    message = compared.with_kinds(
        group[0].message,
        any(one.use_global_features for one in settings),
        any(one.use_local_features for one in settings),
    )
    local_pca = pipeline.fit_local_pca(message, collections, at)
    database, queries = pipeline.extract_collections(
        message, collections, at, local_pca, extract.Sharding(num_threads=num_threads)
    )
    return compared.Stores(database, queries, local_pca)


def _scored_queries(
    queries: FeatureStore, database: FeatureStore, collections: pipeline.Collections
) -> list[str]:
    """Returns the queries that have a positive; all of a revisited set's."""
    if collections.labels is None:
        require(
            not queries.failed(),
            "Every query of the benchmark must be readable.",
            hint="failed_images.csv in the output's features tells what is wrong with each.",
            failed=list(queries.failed())[:3],
        )
        return list(queries.ids())
    truth = folder.ground_truth(queries.ids(), database.ids(), collections.labels)
    asked = [one for one, positives in zip(queries.ids(), truth.positives) if len(positives)]
    require(
        bool(asked),
        "At least one query must have another image of its place in the database.",
        num_queries=len(queries.ids()),
    )
    return asked


def comparison_json(
    scored: Sequence[Scored], collections: pipeline.Collections, truth_path: str
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


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
