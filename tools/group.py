"""group: a feature store in; its near-duplicates and groups of one place out, without labels.

delf_tf group --database_store=STORE --output_dir=OUT [--images_dir=DIR] [--config=CONFIG]
  [--num_neighbors=20] [--min_inliers=30]

OUT receives labels.csv (columns image, place, duplicate_of), which `compare`, `retrieve` and
`evaluate` read as labels; and with --images_dir index.html, to look through. Images are joined by
pairs with --min_inliers inliers, directly or by way of others; look before you trust. Killed, it
goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import searching
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS, default_config="compact", weights=False)
flags.DEFINE_string("database_store", None, "feature store of the images", flag_values=FLAGS)
flags.DEFINE_string("images_dir", None, "folder of the images, for the page", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "folder that receives the results", flag_values=FLAGS)
command_line.define_count(FLAGS, "num_neighbors", 20, "images that each one is compared with")
command_line.define_count(FLAGS, "min_inliers", 30, "inliers that join two images")
flags.DEFINE_float(
    "duplicate_similarity",
    0.97,
    "first-stage score from which on joined images are near-duplicates",
    flag_values=FLAGS,
)
command_line.define_count(FLAGS, "num_threads", 2, "threads for verifying pairs")


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    store, output_dir = command_line.required(flag_values, "database_store", "output_dir")
    names = ("num_neighbors", "min_inliers", "duplicate_similarity", "num_threads")
    done = searching.group(
        command_line.read_config(flag_values),
        FeatureStore(store),
        output_dir,
        images_dir=flag_values.images_dir or None,
        **{name: flag_values[name].value for name in names},
    )
    num = sum(map(len, done.groups.members))
    copies = len(done.groups.duplicate_of)
    told = f"{num} images in {len(done.groups.members)} groups, {copies} near-duplicates"
    command_line.write_result(
        "\n".join([told, str(done.labels), *map(str, filter(None, [done.page]))])
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
