"""train_similarity: a store of local features in, ELViS or AMES, a learned similarity, out.

delf_tf train_similarity --config=elvis --store=STORE --ranking=ranking.npz --labels=labels.csv
  --output_dir=RUN [--strategy=mirrored]

The ranking is of the store's images searched among themselves (`delf_tf search`): the first images
of other places are the hard negatives. --labels (columns image, place) tell what belongs together;
warped copies of an image may be labelled as it. Stopped or killed, the same command goes on. The
weights are what rerank.learned.weights names.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from delf_tf.datasets import folder
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines.train import train_similarity
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS, weights=False)
flags.DEFINE_string("store", None, "feature store with local features", flag_values=FLAGS)
flags.DEFINE_string("ranking", None, "ranking (.npz) of its images", flag_values=FLAGS)
flags.DEFINE_string("labels", None, "CSV with columns image and place", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "folder of the run", flag_values=FLAGS)
flags.DEFINE_string(
    "strategy",
    "default",
    "tf.distribute strategy: default, mirrored, multi_worker, tpu or tpu=NAME",
    flag_values=FLAGS,
)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    names = ("store", "ranking", "labels", "output_dir")
    store, ranking, labels, output_dir = command_line.required(flag_values, *names)
    path = train_similarity(
        command_line.read_config(flag_values),
        ranking,
        FeatureStore(store),
        folder.read_labels(labels),
        output_dir,
        strategy=flag_values.strategy,
    )
    command_line.write_result(str(path))


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
