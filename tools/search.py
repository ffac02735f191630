"""search: a feature store or an index in, a ranking out: the first stage alone.

delf_tf search --database_store=STORE --output=ranking.npz [--query_store=STORE]
delf_tf search --index=INDEX --query_store=STORE --output=ranking.npz [--database_store=STORE]

Without --query_store every image of the database queries the rest. An index that was built without
its vectors takes them from --database_store, to score its best results again exactly. The config,
if one is given, says what is done around the search: query expansion, database augmentation (of a
store; an index has been built with it or without), re-ranking by global descriptors.
"""

from __future__ import annotations

import sys

from delf_tf.checks import UsageError
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import searching
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_config(weights=False)
FLAGS.add_text("database_store", "feature store of the database")
FLAGS.add_text("index", "index that build_index wrote, or milvus://HOST:PORT/COLLECTION")
FLAGS.add_text("query_store", "feature store of the queries; default: every image queries the rest")
FLAGS.add_text(
    "allow_mixed",
    "features of some of the database's images, extracted as the queries were: if they are near "
    "the database's, features of another backend or precision are compared",
)
FLAGS.add_text("output", "ranking (.npz) to write")
FLAGS.add_count("max_results", "results kept for a query; overrides the config's")


def main(flags: command_line.Flags) -> None:
    """Runs the tool."""
    (output,) = flags.require("output")
    if not (flags.database_store or (flags.index and flags.query_store)):
        raise UsageError("--database_store, or --index and --query_store, must be given.")
    message = flags.read_config(optional=True)
    flags.override(message.index, "max_results")
    stores = {
        name: FeatureStore(path) if path else None
        for name, path in (
            ("database", flags.database_store),
            ("queries", flags.query_store),
            ("allow_mixed", flags.allow_mixed),
        )
    }
    path = searching.search(message, output, index=flags.index or None, **stores)
    command_line.write_result(str(path))


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
