"""train: TFRecords in, weights out; stopped, pre-empted or killed, the same command goes on.

delf_tf train --config=CONFIG --train_file_pattern='records/train*' --output_dir=RUN
delf_tf train … --strategy=mirrored        all GPUs of the machine
delf_tf train … --strategy=multi_worker    on each machine that TF_CONFIG names
delf_tf train … --strategy=tpu             on each host of a TPU pod slice
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from delf_tf.pipelines.train import train
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS)
flags.DEFINE_string(
    "train_file_pattern",
    None,
    "TFRecord shards: a glob, a comma-separated list, or a folder",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "output_dir", None, "folder of the run: checkpoints, metrics, weights", flag_values=FLAGS
)
flags.DEFINE_string(
    "strategy",
    "default",
    "tf.distribute strategy: default, mirrored, multi_worker, tpu or tpu=NAME",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "peak_tflops",
    0.0,
    "peak TFLOP/s of all devices, for MFU; 0 measures one by a matrix product",
    lower_bound=0,
    flag_values=FLAGS,
)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    pattern, output_dir = command_line.required(flag_values, "train_file_pattern", "output_dir")
    path = train(
        command_line.read_config(flag_values),
        pattern,
        output_dir,
        strategy=flag_values.strategy,
        peak_tflops=flag_values.peak_tflops,
    )
    command_line.write_result(str(path))


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
