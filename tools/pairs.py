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
from collections.abc import Sequence

from absl import flags

from delf_tf.features.store import FeatureStore
from delf_tf.retrieval.second_stage import pairs
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
flags.DEFINE_string("ranking", None, "ranking (.npz)", flag_values=FLAGS)
flags.DEFINE_string("output", None, "folder that receives the files", flag_values=FLAGS)
flags.DEFINE_enum("format", "csv", list(pairs.FORMATS), "what to write", flag_values=FLAGS)
flags.DEFINE_string(
    "verifications_dir", None, "what rerank kept of this ranking's queries", flag_values=FLAGS
)
flags.DEFINE_string("database_store", None, "feature store of the database", flag_values=FLAGS)
flags.DEFINE_string("query_store", None, "feature store of the queries", flag_values=FLAGS)
flags.DEFINE_string(
    "images_dir", None, "folder of the images, for COLMAP's database", flag_values=FLAGS
)
command_line.define_count(FLAGS, "max_results", 20, "results a query that make pairs")
command_line.define_count(
    FLAGS, "min_inliers", 0, "inliers below which a pair is left out", least=0
)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    ranking, output = command_line.required(flag_values, "ranking", "output")
    stores = {"database": flag_values.database_store, "queries": flag_values.query_store}
    written = pairs.write_pairs(
        ranking,
        output,
        flag_values.format,
        max_results=flag_values.max_results,
        min_inliers=flag_values.min_inliers,
        verifications_dir=flag_values.verifications_dir or None,
        images_dir=flag_values.images_dir or None,
        **{name: FeatureStore(path) for name, path in stores.items() if path},
    )
    command_line.write_result("\n".join(map(str, written)))


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
