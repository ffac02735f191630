"""evaluate: a ranking and a ground truth in, scores out; any ranking, also one made elsewhere.

delf_tf evaluate --ground_truth=gnd_roxford5k.pkl --ranking=ranking.npz [--json]
delf_tf evaluate --ground_truth=labels.csv --ranking=ranking.npz

A ranking is an .npz with query_ids, database_ids, indices [Q, K] (best first, -1 for none) and
optionally scores. Revisited Oxford and Paris (.pkl or .mat) are scored by their Easy, Medium and
Hard protocols; labels (.csv, columns image and place) by equal places. What the tool cannot see in
a ranking, whether queries were cropped and re-ranking was blind, is read from the ranking if
delf_tf made it, and can be told by flags; it stands beside every number.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.datasets import folder, revisitop
from delf_tf.evaluation import metrics, results
from delf_tf.retrieval import ranking_file, rankings
from delf_tf.tools import command_line
from delf_tf.types import GroundTruth, Ranking

# The one protocol of a labelled folder.
LABELS = "labels"

FLAGS = flags.FlagValues()
flags.DEFINE_string("ground_truth", None, "gnd_*.pkl, gnd_*.mat, or labels .csv", flag_values=FLAGS)
flags.DEFINE_string("ranking", None, "the ranking (.npz)", flag_values=FLAGS)
flags.DEFINE_string("output", None, "metrics file (.json) to write", flag_values=FLAGS)
flags.DEFINE_boolean("json", False, "print JSON instead of lines", flag_values=FLAGS)
flags.DEFINE_boolean("queries_cropped", None, "queries were cut to their boxes", flag_values=FLAGS)
flags.DEFINE_boolean(
    "blind_reranking", None, "candidates were chosen without the ground truth", flag_values=FLAGS
)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    truth_path, ranking_path = command_line.required(flag_values, "ground_truth", "ranking")
    ranking = ranking_file.load_ranking(ranking_path)
    known = ranking_file.load_ranking_metadata(ranking_path)
    told = {
        name: known.get(name) if flag_values[name].value is None else flag_values[name].value
        for name in ("queries_cropped", "blind_reranking")
    }
    scored, lines = evaluate(ranking, truth_path, results.Conditions(**told))
    if flag_values.output:
        results.save_results(flag_values.output, scored)
    command_line.write_result(
        command_line.to_json(results.json_ready(scored)) if flag_values.json else "\n".join(lines)
    )


def evaluate(
    ranking: Ranking, truth_path: str, conditions: results.Conditions
) -> tuple[dict[str, Any], list[str]]:
    """Scores a ranking against the file that its extension names a ground truth or labels.

    Returns:
      The figures for JSON, and the same as printable lines.
    """
    by_protocol = protocols(ranking, truth_path)
    lines = results.results_lines(by_protocol, conditions)
    if set(by_protocol) == {LABELS}:
        places = folder.places(ranking.query_ids, folder.read_labels(truth_path))
        scored = results.ranking_results(by_protocol[LABELS], conditions, places=places)
        return scored, lines
    return results.revisited_results(by_protocol, conditions), lines


def protocols(ranking: Ranking, truth_path: StrPath) -> dict[str, metrics.RankingMetrics]:
    """Returns a ranking's metrics by protocol: the revisited sets' three, or "labels".

    Raises:
      InputError: a ground truth that cannot be read, or of other images.
    """
    return {
        name: metrics.evaluate_ranking(found, truth)
        for name, (found, truth) in with_ground_truth(ranking, truth_path).items()
    }


def with_ground_truth(
    ranking: Ranking, truth_path: StrPath
) -> dict[str, tuple[Ranking, GroundTruth]]:
    """Returns by protocol a ranking, its rows in the ground truth's order, and that ground truth.

    Raises:
      InputError: a ground truth that cannot be read, or of other images.
    """
    if Path(truth_path).suffix.lower() == ".csv":
        labels = folder.read_labels(truth_path)
        truth = folder.ground_truth(ranking.query_ids, ranking.database_ids, labels)
        return {LABELS: (ranking, truth)}
    benchmark = revisitop.read_ground_truth(truth_path)
    known = set(benchmark.database_ids)
    extra = [one for one in ranking.database_ids if one not in known]
    require(
        len(extra) < len(ranking.database_ids),
        "The ranking must be of the ground truth's images.",
        hint="Ids are file names without extension.",
        ranking=ranking.database_ids[:2],
        ground_truth=benchmark.database_ids[:2],
    )
    benchmark = benchmark.with_distractors(extra)
    ranking = rankings.aligned(ranking, benchmark.query_ids, benchmark.database_ids)
    return {name: (ranking, benchmark.ground_truth(name)) for name in revisitop.PROTOCOLS}


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
