"""evaluate: a ranking and a ground truth in, scores out; any ranking, also one made elsewhere.

delf_tf evaluate --ground_truth=gnd_roxford5k.pkl --ranking=ranking.npz [--json]
delf_tf evaluate --ground_truth=labels.csv --ranking=ranking.npz [--protocol=recall]
delf_tf evaluate --ground_truth=retrieval_solution_v2.1.csv --ranking=ranking.npz
delf_tf evaluate --ground_truth=recognition_solution_v2.1.csv --predictions=submission.csv

A ranking is an .npz with query_ids, database_ids, indices [Q, K] (best first, -1 for none) and
optionally scores. Revisited Oxford and Paris (.pkl or .mat) are scored by their Easy, Medium and
Hard protocols; labels (.csv, columns image and place) by equal places; a solution of Google
Landmarks v2 by mAP@100, or by GAP, where a ranking's nearest images vote (--train_csv).
--protocol=recall scores labels by recall at k.

What the tool cannot see in a ranking, whether queries were cropped and re-ranking was blind, is
read from the ranking if delf_tf made it, and can be told by flags; it stands beside every number.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from delf_tf.checks import UsageError
from delf_tf.evaluation import results
from delf_tf.pipelines import protocols
from delf_tf.retrieval import ranking_file
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "ground_truth",
    None,
    "ground truth: gnd_*.pkl, gnd_*.mat, labels .csv or a GLDv2 solution .csv",
    flag_values=FLAGS,
)
flags.DEFINE_string("ranking", None, "ranking (.npz) to score", flag_values=FLAGS)
flags.DEFINE_string(
    "predictions", "", "Google Landmarks v2: submission (.csv) to score", flag_values=FLAGS
)
flags.DEFINE_enum(
    "protocol",
    None,
    list(protocols.PROTOCOLS),
    "protocol; default: by the type of ground truth",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "train_csv", "", "recognition: CSV with the landmarks of the database images", flag_values=FLAGS
)
command_line.define_count(FLAGS, "num_voters", 5, "recognition: number of nearest images that vote")
flags.DEFINE_string("output", None, "metrics file (.json) to write", flag_values=FLAGS)
flags.DEFINE_boolean("json", False, "print JSON instead of lines", flag_values=FLAGS)
flags.DEFINE_boolean(
    "queries_cropped",
    None,
    "record in the metrics that queries were cropped to their boxes",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "blind_reranking",
    None,
    "record in the metrics that candidates were chosen without the ground truth",
    flag_values=FLAGS,
)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    task = _task(flag_values)
    protocol = flag_values.protocol or protocols.guess(task.truth_path)
    scored, lines = protocols.PROTOCOLS[protocol](task)
    if flag_values.output:
        results.save_results(flag_values.output, scored)
    command_line.write_result(
        command_line.to_json(results.json_ready(scored)) if flag_values.json else "\n".join(lines)
    )


def _task(flag_values: flags.FlagValues) -> protocols.Task:
    """Reads what the flags name.

    Raises:
      UsageError: flags that are missing, or given beside one that excludes them.
    """
    command_line.required(flag_values, "ground_truth")
    if bool(flag_values.ranking) == bool(flag_values.predictions):
        raise UsageError("Either --ranking or --predictions must be given.")
    known = {}
    ranking = None
    if flag_values.ranking:
        ranking = ranking_file.load_ranking(flag_values.ranking)
        known = ranking_file.load_ranking_metadata(flag_values.ranking)
    told = {
        name: known.get(name) if flag_values[name].value is None else flag_values[name].value
        for name in ("queries_cropped", "blind_reranking")
    }
    return protocols.Task(
        flag_values.ground_truth,
        ranking,
        results.Conditions(**told),
        flag_values.predictions,
        flag_values.train_csv,
        flag_values.num_voters,
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
