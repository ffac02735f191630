"""build_index: a feature store in, an index out, that search opens.

delf_tf build_index --database_store=STORE --output=INDEX [--type=TYPE] [--whitening=PATH]
  [--dtype=float16]
delf_tf build_index --database_store=STORE --output=INDEX --type=asmk [--codebook=PATH]
  [--num_words=65536]
delf_tf build_index --database_store=MORE --add_to=INDEX [--output=OTHER_INDEX]
delf_tf build_index --remove_from=INDEX --ids=ID,ID

Of global descriptors TYPE is "exact"; a faiss factory string such as "SQ8" or
"IVF2048,PQ128x4fs"; "auto", exact for few images and compressed for many; "milvus", kept by that
engine; or a class of your own, "my_package.module:Class". Of local features TYPE is "asmk",
aggregated visual words, or "local", DELF's nearest features that vote; INDEX is a folder then.
Without --codebook the words are trained on the database. A build of these that was killed goes on.
Run again, an index follows its store: images come and go, what was learned (words, cells) stays.
--add_to adds the images that the index lacks; --remove_from takes some out of "asmk" and "local".
Milvus runs embedded, in a file beside INDEX, or where the environment's MILVUS_URI (and
MILVUS_TOKEN) say, at build and at search; `search` also takes its address as --index.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from delf_tf.checks import UsageError
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import indexing
from delf_tf.retrieval import local_search
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS, weights=False)
flags.DEFINE_string("database_store", None, "feature store of the database", flag_values=FLAGS)
flags.DEFINE_string("output", None, "path of the index to write", flag_values=FLAGS)
flags.DEFINE_string(
    "type", None, "type of index; overrides the config's; default: auto", flag_values=FLAGS
)
flags.DEFINE_string(
    "whitening", None, "fitted whitening (.npz); overrides the config's", flag_values=FLAGS
)
flags.DEFINE_string("dtype", None, "float32 or float16; overrides the config's", flag_values=FLAGS)
flags.DEFINE_boolean(
    "keep_vectors",
    True,
    "keep the full vectors beside the codes of a faiss index; without them, search re-scores "
    "with vectors read from the store",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "codebook", None, "codebook of type asmk; overrides the config's", flag_values=FLAGS
)
command_line.define_count(
    FLAGS, "num_words", None, "size of a new codebook; overrides the config's"
)
flags.DEFINE_string("add_to", None, "existing index that receives the images", flag_values=FLAGS)
flags.DEFINE_string("remove_from", None, "index, asmk or local, without --ids", flag_values=FLAGS)
flags.DEFINE_list("ids", None, "images that --remove_from takes out", flag_values=FLAGS)
flags.DEFINE_string(
    "collection", "delf_tf", "type milvus: name of the collection", flag_values=FLAGS
)
flags.DEFINE_boolean("overwrite", False, "replace an existing output", flag_values=FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    if flag_values.remove_from:
        (ids,) = command_line.required(flag_values, "ids")
        path = local_search.remove_from_local(flag_values.remove_from, ids)
        command_line.write_result(str(path))
        return
    (store_path,) = command_line.required(flag_values, "database_store")
    if not (flag_values.output or flag_values.add_to):
        raise UsageError("--output or --add_to must be given.")
    message = command_line.read_config(flag_values, optional=True)
    if not message.index.HasField("type"):
        message.index.type = "auto"
    command_line.override_by_flags(flag_values, message.index, "type", "whitening", "dtype")
    command_line.override_by_flags(flag_values, message.index.asmk, "codebook", "num_words")
    store, overwrite = FeatureStore(store_path), flag_values.overwrite
    if flag_values.add_to:
        path = indexing.add(
            flag_values.add_to, store, flag_values.output or None, overwrite=overwrite
        )
    else:
        extra = _extra_arguments(flag_values, message.index.type, Path(flag_values.output))
        path = indexing.build(message, store, flag_values.output, overwrite=overwrite, **extra)
    command_line.write_result(str(path))


def _extra_arguments(flag_values: flags.FlagValues, type_: str, output: Path) -> dict[str, Any]:
    """Returns the arguments of `create_index` that no config names."""
    extra: dict[str, Any] = {} if flag_values.keep_vectors else {"keep_vectors": False}
    if type_ == "milvus":
        local = output.with_name(f"{output.name}.db")
        extra["uri"] = os.environ.get("MILVUS_URI") or str(local)
        extra["collection"] = flag_values.collection
        extra["replace"] = flag_values.overwrite
    return extra


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
