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

from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import searching
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_config("compact", weights=False)
FLAGS.add_text("database_store", "feature store of the images")
FLAGS.add_text("images_dir", "folder of the images, for the page")
FLAGS.add_text("output_dir", "folder that receives the results")
FLAGS.add_count("num_neighbors", "neighbours that each image is compared with", 20)
FLAGS.add_count("min_inliers", "inliers that join two images", 30)
FLAGS.add_number(
    "duplicate_similarity",
    "first-stage score from which on joined images are near-duplicates",
    0.97,
)
FLAGS.add_count("num_threads", "threads for verifying pairs", 2)


def main(flags: command_line.Flags) -> None:
    """Runs the tool."""
    store, output_dir = flags.require("database_store", "output_dir")
    done = searching.group(
        flags.read_config(),
        FeatureStore(store),
        output_dir,
        images_dir=flags.images_dir or None,
        **flags.pick("num_neighbors", "min_inliers", "duplicate_similarity", "num_threads"),
    )
    num = sum(map(len, done.groups.members))
    copies = len(done.groups.duplicate_of)
    told = f"{num} images in {len(done.groups.members)} groups, {copies} near-duplicates"
    command_line.write_result(
        "\n".join([told, str(done.labels), *map(str, filter(None, [done.page]))])
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
