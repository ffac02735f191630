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
from collections.abc import Sequence

from absl import flags

from delf_tf.checks import UsageError
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import searching
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS, weights=False)
flags.DEFINE_string("database_store", None, "feature store of the database", flag_values=FLAGS)
flags.DEFINE_string(
    "index",
    None,
    "index that build_index wrote, or milvus://HOST:PORT/COLLECTION",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "query_store",
    None,
    "feature store of the queries; default: every image queries the rest",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "allow_mixed",
    None,
    "features of some of the database's images, extracted as the queries were: if they are near "
    "the database's, features of another backend or precision are compared",
    flag_values=FLAGS,
)
flags.DEFINE_string("output", None, "ranking (.npz) to write", flag_values=FLAGS)
command_line.define_count(
    FLAGS, "max_results", None, "results kept for a query; overrides the config's"
)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    (output,) = command_line.required(flag_values, "output")
    if not (flag_values.database_store or (flag_values.index and flag_values.query_store)):
        raise UsageError("--database_store, or --index and --query_store, must be given.")
    message = command_line.read_config(flag_values, optional=True)
    command_line.override_by_flags(flag_values, message.index, "max_results")
    stores = {
        name: FeatureStore(path) if path else None
        for name, path in (
            ("database", flag_values.database_store),
            ("queries", flag_values.query_store),
            ("allow_mixed", flag_values.allow_mixed),
        )
    }
    path = searching.search(message, output, index=flag_values.index or None, **stores)
    command_line.write_result(str(path))


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
