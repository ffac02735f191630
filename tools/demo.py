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
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from delf_tf.pipelines.demo import demo
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS, default_config="compact", extraction=True)
flags.DEFINE_string(
    "output_dir", "demo_output", "folder that receives all results", flag_values=FLAGS
)
flags.DEFINE_string(
    "photos_dir",
    None,
    "folder of your own photographs, instead of generated ones",
    flag_values=FLAGS,
)
command_line.define_count(FLAGS, "num_landmarks", 60, "generated landmarks")
command_line.define_count(FLAGS, "num_train_views", 24, "training images of each landmark")
command_line.define_count(FLAGS, "num_views", 4, "test images of each landmark")
command_line.define_count(FLAGS, "num_distractors", 120, "images of other places", least=0)
command_line.define_count(FLAGS, "num_workers", 2, "rendering processes and verification threads")


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Runs the tool."""
    command_line.no_positional(arguments)
    names = ("num_landmarks", "num_train_views", "num_views", "num_distractors", "num_workers")
    code = command_line.DONE
    for done in demo(
        command_line.read_config(flag_values),
        Path(flag_values.output_dir),
        photos_dir=flag_values.photos_dir or None,
        **{name: flag_values[name].value for name in names},
    ):
        command_line.write_result(f"{done.table.to_text()}\n\nReport: {done.report}")
        code = max(code, command_line.exit_code(len(done.database.failed()), len(done.database)))
    return code


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
