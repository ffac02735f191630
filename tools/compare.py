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
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from delf_tf.pipelines import compare, measured_pipeline
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "config",
    "compact_systems",
    "comparison: a .textproto file, or the name of a shipped one",
    flag_values=FLAGS,
)
command_line.define_import_flag(FLAGS)
flags.DEFINE_string("database_dir", None, "folder of images to search in", flag_values=FLAGS)
flags.DEFINE_string(
    "query_dir",
    None,
    "folder of query images; default: every image queries the rest",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "ground_truth",
    None,
    "labels (.csv) or the ground truth of a revisited set (.pkl, .mat)",
    flag_values=FLAGS,
)
flags.DEFINE_alias("labels", "ground_truth", flag_values=FLAGS)
flags.DEFINE_string(
    "train_file_pattern",
    None,
    "TFRecord shards; models without weights are trained on them first",
    flag_values=FLAGS,
)
flags.DEFINE_string("output_dir", None, "folder that receives all results", flag_values=FLAGS)
command_line.define_count(
    FLAGS, "num_threads", 2, "threads for decoding images and verifying pairs"
)
command_line.define_count(FLAGS, "num_report_queries", 12, "queries shown in the report", least=0)
flags.DEFINE_boolean("json", False, "print JSON instead of the table", flag_values=FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    database_dir, truth_path, output_dir = command_line.required(
        flag_values, "database_dir", "ground_truth", "output_dir"
    )
    pipelines = measured_pipeline.read_pipelines(
        flag_values.config, allow_imports=flag_values.allow_import
    )
    collections = compare.read_collections(database_dir, flag_values.query_dir, truth_path)
    if flag_values.train_file_pattern:
        measured_pipeline.train_missing(pipelines, flag_values.train_file_pattern, Path(output_dir))
    done = compare.compare(
        pipelines,
        collections,
        truth_path,
        Path(output_dir),
        num_threads=flag_values.num_threads,
        num_report_queries=flag_values.num_report_queries,
    )
    if flag_values.json:
        command_line.write_result(command_line.to_json(done.figures))
    else:
        command_line.write_result(f"{done.table.to_text()}\n\n{done.page}")


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
