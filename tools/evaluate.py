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

from delf_tf.checks import UsageError
from delf_tf.evaluation import results
from delf_tf.pipelines import protocols
from delf_tf.retrieval import ranking_file
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_text(
    "ground_truth", "ground truth: gnd_*.pkl, gnd_*.mat, labels .csv or a GLDv2 solution .csv"
)
FLAGS.add_text("ranking", "ranking (.npz) to score")
FLAGS.add_text("predictions", "Google Landmarks v2: submission (.csv) to score", "")
FLAGS.add_choice("protocol", protocols.PROTOCOLS, "protocol; default: by the type of ground truth")
FLAGS.add_text("train_csv", "recognition: CSV with the landmarks of the database images", "")
FLAGS.add_count("num_voters", "recognition: number of nearest images that vote", 5)
FLAGS.add_text("output", "metrics file (.json) to write")
FLAGS.add_switch("json", "print JSON instead of lines")
FLAGS.add_switch(
    "queries_cropped", "record in the metrics that queries were cropped to their boxes", None
)
FLAGS.add_switch(
    "blind_reranking",
    "record in the metrics that candidates were chosen without the ground truth",
    None,
)


def main(flags: command_line.Flags) -> None:
    """Runs the tool."""
    task = _task(flags)
    protocol = flags.protocol or protocols.guess(task.truth_path)
    scored, lines = protocols.PROTOCOLS[protocol](task)
    if flags.output:
        results.save_results(flags.output, scored)
    command_line.write_result(
        command_line.to_json(results.json_ready(scored)) if flags.json else "\n".join(lines)
    )


def _task(flags: command_line.Flags) -> protocols.Task:
    """Reads what the flags name.

    Raises:
      UsageError: flags that are missing, or given beside one that excludes them.
    """
    flags.require("ground_truth")
    if bool(flags.ranking) == bool(flags.predictions):
        raise UsageError("Either --ranking or --predictions must be given.")
    known = {}
    ranking = None
    if flags.ranking:
        ranking = ranking_file.load_ranking(flags.ranking)
        known = ranking_file.load_ranking_metadata(flags.ranking)
    told = {
        name: known.get(name) if given is None else given
        for name, given in flags.pick("queries_cropped", "blind_reranking").items()
    }
    return protocols.Task(
        flags.ground_truth,
        ranking,
        results.Conditions(**told),
        flags.predictions,
        flags.train_csv,
        flags.num_voters,
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
