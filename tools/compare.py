"""compare: one stage or two? Any list of pipelines on the same images, side by side.

delf_tf compare --config=COMPARISON --database_dir=DIR --labels=labels.csv --output_dir=OUT
  [--query_dir=DIR]
delf_tf compare --config=COMPARISON --database_dir=DIR --ground_truth=gnd_roxford5k.pkl
  --output_dir=OUT
delf_tf compare --config=dolg_ablations --train_file_pattern='records/train*' …

A comparison is a .textproto that lists pipelines, each an experiment's config with overrides; see
configs/comparisons. Pipelines with the same features extract them once, and verify
the same pairs once. OUT receives
comparison.json, comparison.html, and everything below it that was made; the same command again goes
on from there. With a revisited set's ground truth, --database_dir holds its queries as well, which
are cropped to their boxes. Every test is against the first pipeline. With --train_file_pattern,
pipelines whose configs train and name no weights are trained first, into OUT.
"""

from __future__ import annotations

import sys
from pathlib import Path

from delf_tf.pipelines import compare, measured_pipeline
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_text(
    "config", "comparison: a .textproto file, or the name of a shipped one", "compact_systems"
)
FLAGS.add_import()
FLAGS.add_text("database_dir", "folder of images to search in")
FLAGS.add_text("query_dir", "folder of query images; default: every image queries the rest")
FLAGS.add_text("ground_truth", "labels (.csv) or the ground truth of a revisited set (.pkl, .mat)")
FLAGS.add_alias("labels", "ground_truth")
FLAGS.add_text(
    "train_file_pattern", "TFRecord shards; models without weights are trained on them first"
)
FLAGS.add_text("output_dir", "folder that receives all results")
FLAGS.add_count("num_threads", "threads for decoding images and verifying pairs", 2)
FLAGS.add_count("num_report_queries", "queries shown in the report", 12, least=0)
FLAGS.add_switch("json", "print JSON instead of the table")


def main(flags: command_line.Flags) -> None:
    """Runs the tool."""
    database_dir, truth_path, output_dir = flags.require(
        "database_dir", "ground_truth", "output_dir"
    )
    pipelines = measured_pipeline.read_pipelines(flags.config, allow_imports=flags.allow_import)
    collections = compare.read_collections(database_dir, flags.query_dir, truth_path)
    if flags.train_file_pattern:
        measured_pipeline.train_missing(pipelines, flags.train_file_pattern, Path(output_dir))
    options = flags.pick("num_threads", "num_report_queries")
    done = compare.compare(pipelines, collections, truth_path, Path(output_dir), **options)
    if flags.json:
        command_line.write_result(command_line.to_json(done.figures))
    else:
        command_line.write_result(f"{done.table.to_text()}\n\n{done.page}")


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
