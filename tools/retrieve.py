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
from pathlib import Path

from delf_tf.pipelines import extraction, retrieve
from delf_tf.pipelines.runtime import Runtime
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_config("compact", extraction=True)
FLAGS.add_text("database_dir", "folder of images to search in")
FLAGS.add_text("query_dir", "folder of query images; default: every image queries the rest")
FLAGS.add_text("labels", "CSV with columns image and place")
FLAGS.add_text("output_dir", "folder that receives all results")
FLAGS.add_count("num_threads", "threads for decoding images and verifying pairs", 2)
FLAGS.add_count("num_report_queries", "queries shown in the report", 12, least=0)
FLAGS.add_switch("overwrite", "start again, replacing what --output_dir holds")
FLAGS.add_max_failed()


def main(flags: command_line.Flags) -> int:
    """Runs the tool."""
    database_dir, output_dir = flags.require("database_dir", "output_dir")
    done = retrieve.retrieve(
        Runtime(flags.read_config()),
        extraction.read_collections(database_dir, flags.query_dir, flags.labels),
        Path(output_dir),
        sharding=extraction.Sharding(**flags.pick("num_threads", "overwrite")),
        num_report_queries=flags.num_report_queries,
    )
    command_line.write_result(f"{done.table.to_text()}\n\nReport: {done.report}")
    return command_line.exit_code(done.database, flags.max_failed_fraction)


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
