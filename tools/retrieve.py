"""retrieve: folders of images in; features, search, re-ranking, scores and a report out.

delf_tf retrieve --database_dir=DIR --output_dir=OUT
  [--query_dir=DIR] [--labels=labels.csv] [--config=CONFIG --weights=PATH]

Without --config it is the compact model of the package. Without --query_dir every image queries the
rest. With --labels (columns image, place; an empty place is a distractor) the rankings are scored.
OUT receives metrics.json (with labels), ranking.npz, report.html, failed_images.csv, and the
features: the same command again goes on from there, and `serve --index=OUT` shows them on a page.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from matplotlib.figure import Figure

from delf_tf import artifacts
from delf_tf.datasets import folder
from delf_tf.features.store import FeatureStore
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval.second_stage.rerank import Verifications
from delf_tf.tools import (
    command_line,
    experiment,
    extract,
    failures,
    measure,
    pipeline,
    rerank,
    retrieval_folder,
    retrieval_report,
    score,
    search,
    settings,
    visualize,
)
from delf_tf.types import ImageRef, Ranking

FLAGS = flags.FlagValues()
experiment.define_flags(FLAGS, default_config="compact")
experiment.define_extraction_flags(FLAGS)
flags.DEFINE_string("database_dir", None, "folder of images to search in", flag_values=FLAGS)
flags.DEFINE_string(
    "query_dir", None, "folder of query images; not given: the database itself", flag_values=FLAGS
)
flags.DEFINE_string("labels", None, "CSV with columns image and place", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "folder for everything that is made", flag_values=FLAGS)
command_line.define_count(FLAGS, "num_threads", 2, "threads that decode images and verify pairs")
command_line.define_count(FLAGS, "num_report_queries", 12, "queries shown in the report", least=0)
flags.DEFINE_boolean(
    "overwrite", False, "start anew, whatever --output_dir holds", flag_values=FLAGS
)
failures.define_flag(FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Runs the tool."""
    command_line.no_positional(arguments)
    database_dir, output_dir = command_line.required(flag_values, "database_dir", "output_dir")
    message = experiment.from_flags(flag_values)
    collections = pipeline.Collections(
        folder.list_images(database_dir),
        folder.list_images(flag_values.query_dir) if flag_values.query_dir else None,
        folder.read_labels(flag_values.labels) if flag_values.labels else None,
        Path(database_dir),
    )
    return retrieve(
        message,
        collections,
        Path(output_dir),
        sharding=extract.Sharding(
            num_threads=flag_values.num_threads, overwrite=flag_values.overwrite
        ),
        num_report_queries=flag_values.num_report_queries,
        max_failed_fraction=flag_values.max_failed_fraction,
    )


def retrieve(
    message: experiment_pb2.Experiment,
    collections: pipeline.Collections,
    output_dir: Path,
    *,
    sharding: extract.Sharding,
    num_report_queries: int = 12,
    max_failed_fraction: float = 0.5,
) -> int:
    """Runs all stages into `output_dir`, prints the table, and returns the exit code."""
    pipeline.check_stages(message)
    local_pca = pipeline.fit_local_pca(message, collections, output_dir)
    database, queries = pipeline.extract_collections(
        message, collections, output_dir, local_pca, sharding
    )
    retrieval_folder.write(output_dir, message, collections.database_dir)
    rankings, verifications, seconds = _rank(message, database, queries, sharding.num_threads)
    _save_rankings(rankings, output_dir, database.fingerprint)

    costs = measure.stage_costs(message, collections.database, database, local_pca, seconds)
    scored = score.score_rankings(
        rankings,
        collections.labels,
        costs,
        first_stage=settings.first_stage_conditions(message),
    )
    if collections.labels is not None:
        artifacts.write_json(output_dir / "metrics.json", scored)
    table = score.summary_table(scored)
    stores = (database if queries is None else queries, database)
    report = retrieval_report.write(
        output_dir / "report.html",
        rankings,
        pictures=_pictures(collections),
        places=_places(rankings[score.SINGLE_STAGE], collections.labels),
        average_precisions={stage: score.average_precisions(scored[stage]) for stage in rankings},
        plots=retrieval_report.plots(rankings, scored, collections.labels, verifications),
        verify=rerank.pair_verifier(message, *stores) if score.TWO_STAGE in rankings else None,
        paint=_painter(message, local_pca),
        table=table,
        model_name=message.model.name,
        num_queries=num_report_queries,
    )
    command_line.write_result(table.to_text())
    command_line.write_result(f"\nReport: {report}")
    return failures.exit_code(database, max_failed_fraction)


def _rank(
    message: experiment_pb2.Experiment,
    database: FeatureStore,
    queries: FeatureStore | None,
    num_threads: int,
) -> tuple[dict[str, Ranking], Verifications, dict[str, float]]:
    """Returns the rankings by stage, what the second found, and seconds a query.

    A stage's seconds include those of the stage before.
    """
    start = time.perf_counter()
    rankings = {score.SINGLE_STAGE: search.search_stores(message, database, queries)}
    num_queries = max(1, len(rankings[score.SINGLE_STAGE].query_ids))
    seconds = {score.SINGLE_STAGE: (time.perf_counter() - start) / num_queries}
    verifications: Verifications = ()
    if message.HasField("rerank"):
        rankings[score.TWO_STAGE], verifications = rerank.verify_stores(
            message,
            rankings[score.SINGLE_STAGE],
            database if queries is None else queries,
            database,
            num_threads=num_threads,
        )
        seconds[score.TWO_STAGE] = (time.perf_counter() - start) / num_queries
    return rankings, verifications, seconds


def _painter(
    message: experiment_pb2.Experiment, local_pca: Path | None
) -> Callable[[ImageRef], Figure] | None:
    """Returns what draws the network's maps; None for a SavedModel, which does not tell them."""
    if experiment.is_saved_model(message.model.weights):
        return None

    # The network is built anew when, and if, the first picture is asked for.
    @functools.cache
    def load() -> Callable[[ImageRef], Figure]:
        return visualize.painter(message, local_pca=local_pca)

    def paint(ref: ImageRef) -> Figure:
        return load()(ref)

    return paint


def _save_rankings(rankings: dict[str, Ranking], output_dir: Path, fingerprint: str) -> None:
    for name, stage in (
        ("ranking_single_stage", score.SINGLE_STAGE),
        ("ranking", list(rankings)[-1]),
    ):
        path = output_dir / f"{name}.npz"
        ranking_file.save_ranking(path, rankings[stage], stage=stage, fingerprint=fingerprint)


def _places(ranking: Ranking, labels: dict[str, str] | None) -> dict[str, str] | None:
    """Returns the place of every image by its id, which may be longer than what labels call it."""
    if labels is None:
        return None
    return {
        one: place
        for ids in (ranking.database_ids, ranking.query_ids)
        for one, place in zip(ids, folder.places(ids, labels))
    }


def _pictures(collections: pipeline.Collections) -> retrieval_report.Pictures:
    database = {ref.id: ref for ref in collections.database}
    queries = database if collections.queries is None else {r.id: r for r in collections.queries}
    return retrieval_report.Pictures(queries, database)


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
