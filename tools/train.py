"""train: data in, weights out; stopped, pre-empted or killed, the same command goes on.

delf_tf train --config=CONFIG --train_file_pattern='records/train*' --output_dir=RUN
delf_tf train … --strategy=mirrored        all GPUs of the machine
delf_tf train … --strategy=multi_worker    on each machine that TF_CONFIG names
delf_tf train … --strategy=tpu             on each host of a TPU pod slice
delf_tf train --config=elvis --store=STORE --ranking=ranking.npz --labels=labels.csv
  --output_dir=RUN

The last trains ELViS or AMES, a learned similarity of local features. The ranking is of the store's
images searched among themselves (`delf_tf search`): the first images of other places are the hard
negatives. The labels tell what belongs together; warped copies of an image may be labelled as it.
The weights are what rerank.learned.weights names.
"""

from __future__ import annotations

import sys

from delf_tf.datasets import folder
from delf_tf.features.store import FeatureStore
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_config()
FLAGS.add_text("train_file_pattern", "TFRecord shards: a glob, a comma-separated list, or a folder")
FLAGS.add_text("store", "feature store with local features, for a learned similarity of them")
FLAGS.add_text("ranking", "ranking (.npz) of the store's images")
FLAGS.add_text("labels", "CSV with columns image and place, of the store's images")
FLAGS.add_text("output_dir", "folder of the run: checkpoints, metrics, weights")
FLAGS.add_text(
    "strategy",
    "tf.distribute strategy: default, mirrored, multi_worker, tpu or tpu=NAME",
    "default",
)
FLAGS.add_number(
    "peak_tflops",
    "peak TFLOP/s of all devices, for MFU; 0 measures one by a matrix product",
    0.0,
    least=0,
)


def main(flags: command_line.Flags) -> None:
    """Runs the tool."""
    # TensorFlow takes seconds to load.
    from delf_tf.pipelines.training import similarity, train  # noqa: PLC0415

    if flags.store:
        ranking, labels, output_dir = flags.require("ranking", "labels", "output_dir")
        data = ranking, FeatureStore(flags.store), folder.read_labels(labels)
        options = flags.pick("strategy")
        path = similarity.train_similarity(flags.read_config(), *data, output_dir, **options)
    else:
        pattern, output_dir = flags.require("train_file_pattern", "output_dir")
        options = flags.pick("strategy", "peak_tflops")
        path = train.train(flags.read_config(), pattern, output_dir, **options)
    command_line.write_result(str(path))


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
