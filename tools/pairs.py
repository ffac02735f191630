"""pairs: a ranking in; pairs of images, and their matches, for COLMAP, hloc or a table out.

delf_tf pairs --ranking=ranking.npz --output=DIR --format=csv [--max_results=20]
delf_tf pairs --ranking=reranked.npz --output=DIR --format=hloc|colmap
  --verifications_dir=reranked.verifications --database_store=STORE [--query_store=STORE]
  [--min_inliers=15] [--images_dir=DIR]

hloc: pairs.txt, and matches.h5 for the features.h5 that convert_features --export_format=hloc
writes. colmap: pairs.txt, matches.txt (raw matches to import), and with --images_dir database.db
with cameras, keypoints and matches (needs pip install 'delf_tf[colmap]'). Each pair is written
once. Without verifications: the pairs alone.
"""

from __future__ import annotations

import sys

from delf_tf.features.store import FeatureStore
from delf_tf.retrieval.second_stage import pairs
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_text("ranking", "ranking (.npz)")
FLAGS.add_text("output", "folder that receives the files")
FLAGS.add_choice("format", pairs.FORMATS, "what to write", "csv")
FLAGS.add_text("verifications_dir", "what rerank kept of this ranking's queries")
FLAGS.add_text("database_store", "feature store of the database")
FLAGS.add_text("query_store", "feature store of the queries")
FLAGS.add_text("images_dir", "folder of the images, for COLMAP's database")
FLAGS.add_count("max_results", "results of a query that make pairs", 20)
FLAGS.add_count("min_inliers", "inliers below which a pair is left out", 0, least=0)


def main(flags: command_line.Flags) -> None:
    """Runs the tool."""
    ranking, output = flags.require("ranking", "output")
    stores = {"database": flags.database_store, "queries": flags.query_store}
    written = pairs.write_pairs(
        ranking,
        output,
        flags.format,
        **flags.pick("max_results", "min_inliers"),
        verifications_dir=flags.verifications_dir or None,
        images_dir=flags.images_dir or None,
        **{name: FeatureStore(path) for name, path in stores.items() if path},
    )
    command_line.write_result("\n".join(map(str, written)))


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
