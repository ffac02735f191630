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
--add_to adds the images that the index lacks; --remove_from removes some from "asmk" and "local".
Milvus runs embedded, in a file beside INDEX, or where the environment's MILVUS_URI (and
MILVUS_TOKEN) say, at build and at search; `search` also takes its address as --index.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from delf_tf.checks import UsageError
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import indexing
from delf_tf.retrieval import local_search
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_config(weights=False)
FLAGS.add_text("database_store", "feature store of the database")
FLAGS.add_text("output", "path of the index to write")
FLAGS.add_text("type", "type of index; overrides the config's; default: auto")
FLAGS.add_text("whitening", "fitted whitening (.npz); overrides the config's")
FLAGS.add_text("dtype", "float32 or float16; overrides the config's")
FLAGS.add_switch(
    "keep_vectors",
    "keep the full vectors beside the codes of a faiss index; without them, search re-scores "
    "with vectors read from the store",
    True,
)
FLAGS.add_text("codebook", "codebook of type asmk; overrides the config's")
FLAGS.add_count("num_words", "size of a new codebook; overrides the config's")
FLAGS.add_text("add_to", "existing index that receives the images")
FLAGS.add_text("remove_from", "asmk or local index that --ids are removed from")
FLAGS.add_list("ids", "images to remove, for --remove_from")
FLAGS.add_text("collection", "type milvus: name of the collection", "delf_tf")
FLAGS.add_switch("overwrite", "replace an existing output")


def main(flags: command_line.Flags) -> None:
    """Runs the tool."""
    if flags.remove_from:
        (ids,) = flags.require("ids")
        path = local_search.remove_from_local(flags.remove_from, ids)
        command_line.write_result(str(path))
        return
    (store_path,) = flags.require("database_store")
    if not (flags.output or flags.add_to):
        raise UsageError("--output or --add_to must be given.")
    message = flags.read_config(optional=True)
    if not message.index.HasField("type"):
        message.index.type = "auto"
    flags.override(message.index, "type", "whitening", "dtype")
    flags.override(message.index.asmk, "codebook", "num_words")
    store, overwrite = FeatureStore(store_path), flags.overwrite
    if flags.add_to:
        path = indexing.add(flags.add_to, store, flags.output or None, overwrite=overwrite)
    else:
        extra = _extra_arguments(flags, message.index.type, Path(flags.output))
        path = indexing.build(message, store, flags.output, overwrite=overwrite, **extra)
    command_line.write_result(str(path))


def _extra_arguments(flags: command_line.Flags, type_: str, output: Path) -> dict[str, Any]:
    """Returns the arguments of `create_index` that no config names."""
    extra: dict[str, Any] = {} if flags.keep_vectors else {"keep_vectors": False}
    if type_ == "milvus":
        local = output.with_name(f"{output.name}.db")
        extra["uri"] = os.environ.get("MILVUS_URI") or str(local)
        extra["collection"] = flags.collection
        extra["replace"] = flags.overwrite
    return extra


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
