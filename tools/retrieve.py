"""retrieve: folders of images in; features, search, re-ranking, scores and a report out.

delf_tf retrieve --database_dir=DIR --output_dir=OUT
  [--query_dir=DIR] [--labels=labels.csv] [--config=CONFIG --weights=PATH]

Without --config it is the compact model of the package. Without --query_dir every image queries the
rest. With --labels (columns image, place; an empty place is a distractor) the rankings are scored.
OUT receives metrics.json (with labels), ranking.npz, report.html, failed_images.csv, and the
features: the same command again goes on from there, and `serve --index=OUT` shows them on a page.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from delf_tf.pipelines import extraction, retrieve
from delf_tf.pipelines.runtime import Runtime
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS, default_config="compact", extraction=True)
flags.DEFINE_string("database_dir", None, "folder of images to search in", flag_values=FLAGS)
flags.DEFINE_string(
    "query_dir",
    None,
    "folder of query images; default: every image queries the rest",
    flag_values=FLAGS,
)
flags.DEFINE_string("labels", None, "CSV with columns image and place", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "folder that receives all results", flag_values=FLAGS)
command_line.define_count(
    FLAGS, "num_threads", 2, "threads for decoding images and verifying pairs"
)
command_line.define_count(FLAGS, "num_report_queries", 12, "queries shown in the report", least=0)
flags.DEFINE_boolean(
    "overwrite", False, "start again, replacing what --output_dir holds", flag_values=FLAGS
)
command_line.define_failed_flag(FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Runs the tool."""
    command_line.no_positional(arguments)
    database_dir, output_dir = command_line.required(flag_values, "database_dir", "output_dir")
    runtime = Runtime(command_line.read_config(flag_values))
    done = retrieve.retrieve(
        runtime,
        extraction.read_collections(database_dir, flag_values.query_dir, flag_values.labels),
        Path(output_dir),
        sharding=extraction.Sharding(
            num_threads=flag_values.num_threads, overwrite=flag_values.overwrite
        ),
        num_report_queries=flag_values.num_report_queries,
    )
    command_line.write_result(f"{done.table.to_text()}\n\nReport: {done.report}")
    return command_line.exit_code(
        len(done.database.failed()), len(done.database), flag_values.max_failed_fraction
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
