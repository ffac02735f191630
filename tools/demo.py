"""demo: makes photographs of generated landmarks and retrieves them; yours too, if you name them.

delf_tf demo --output_dir=demo_output [--photos_dir=DIR]
delf_tf demo --config=compact_demo --output_dir=demo_train_output

Offline. Views of generated landmarks query each other among distractors, by global descriptors
alone and with geometric verification, with the compact model of the package. --photos_dir does the
same with photographs of yours. With a config that has no weights, such as compact_demo, a model
first learns for at most three minutes from other views of the landmarks. OUT receives report.html,
metrics.json, the photographs, train/weights.npz if something was trained, and of --photos_dir
your_photos/report.html; the same command again goes on where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from delf_tf.pipelines.demo import demo
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_config("compact", extraction=True)
FLAGS.add_text("output_dir", "folder that receives all results", "demo_output")
FLAGS.add_text("photos_dir", "folder of your own photographs, retrieved as well")
FLAGS.add_count("num_landmarks", "generated landmarks", 60)
FLAGS.add_count("num_train_views", "training images of each landmark", 24)
FLAGS.add_count("num_views", "test images of each landmark", 4)
FLAGS.add_count("num_distractors", "images of other places", 120, least=0)
FLAGS.add_count("num_workers", "rendering processes and verification threads", 2)


def main(flags: command_line.Flags) -> int:
    """Runs the tool."""
    names = ("num_landmarks", "num_train_views", "num_views", "num_distractors", "num_workers")
    code = command_line.DONE
    for done in demo(
        flags.read_config(),
        Path(flags.output_dir),
        photos_dir=flags.photos_dir or None,
        **flags.pick(*names),
    ):
        command_line.write_result(f"{done.table.to_text()}\n\nReport: {done.report}")
        code = max(code, command_line.exit_code(done.database))
    return code


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
