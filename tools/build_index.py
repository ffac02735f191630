"""build_index: a feature store in, an index out, that search opens; or the vectors for a database.

delf_tf build_index --database_store=STORE --output=INDEX [--type=TYPE] [--whitening=PATH]
  [--dtype=float16]
delf_tf build_index --database_store=STORE --output=INDEX --type=asmk [--codebook=PATH]
  [--num_words=65536]
delf_tf build_index --database_store=MORE --add_to=INDEX [--output=OTHER_INDEX]
delf_tf build_index --database_store=STORE --export=DIR [--export_formats=npy,parquet]

Of global descriptors TYPE is "exact"; a faiss factory string such as "SQ8" or
"IVF2048,PQ128x4fs"; "auto", exact for few images and compressed for many; "milvus", kept by that
engine; or a class of your own, "my_package.module:Class". Of local features TYPE is "asmk",
aggregated visual words, or "local", DELF's nearest features that vote; INDEX is a folder then.
Without --codebook the words are trained on the database. A build of these that was killed goes on.

--add_to adds the images that the index lacks. --export writes ids and vectors as vector databases
load them in bulk. Milvus runs embedded, in a file beside INDEX, or where the environment's
MILVUS_URI (and MILVUS_TOKEN) say, at build and at search.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from delf_tf.checks import UsageError, require, require_absent
from delf_tf.features.store import FeatureStore
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval import local_search
from delf_tf.retrieval.vectors import first_stage, index, vector_export
from delf_tf.retrieval.vectors.vector_index import VectorIndex
from delf_tf.tools import command_line, local_indexes, settings
from delf_tf.types import GlobalDescriptors

FLAGS = flags.FlagValues()
settings.define_flags(FLAGS)
flags.DEFINE_string("database_store", None, "features of the database", flag_values=FLAGS)
flags.DEFINE_string("output", None, "the index", flag_values=FLAGS)
flags.DEFINE_string(
    "type", None, "kind of index, instead of the config's; auto without either", flag_values=FLAGS
)
flags.DEFINE_string(
    "whitening", None, "fitted whitening (.npz), instead of the config's", flag_values=FLAGS
)
flags.DEFINE_string("dtype", None, "float32 or float16, instead of the config's", flag_values=FLAGS)
flags.DEFINE_boolean(
    "keep_vectors",
    True,
    "keep the vectors beside a faiss index's codes; if not, search takes them from the store",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "codebook", None, "visual words of asmk, instead of the config's", flag_values=FLAGS
)
command_line.define_count(
    FLAGS, "num_words", None, "words of a trained codebook, instead of the config's"
)
flags.DEFINE_string("add_to", None, "an index to add the images to", flag_values=FLAGS)
flags.DEFINE_string("collection", "delf_tf", "name in Milvus, for that type", flag_values=FLAGS)
flags.DEFINE_string("export", None, "folder for ids and vectors", flag_values=FLAGS)
flags.DEFINE_list(
    "export_formats", list(vector_export.FORMATS), "of npy and parquet", flag_values=FLAGS
)
flags.DEFINE_boolean("overwrite", False, "replace what is at --output", flag_values=FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    (store_path,) = command_line.required(flag_values, "database_store")
    if not (flag_values.output or flag_values.add_to or flag_values.export):
        raise UsageError("--output, --add_to or --export must be given.")
    message = _experiment(flag_values)
    output = Path(flag_values.output or flag_values.add_to or "")
    store = FeatureStore(store_path)
    if flag_values.add_to:
        command_line.write_result(str(_add(flag_values, store, output)))
    elif flag_values.output and local_indexes.is_type(message.index.type):
        folder = local_indexes.build(message, store, output, overwrite=flag_values.overwrite)
        command_line.write_result(str(folder))
    elif flag_values.output:
        _require_new(flag_values, output)
        made = build(message, store, **_extra_arguments(flag_values, message.index.type, output))
        command_line.write_result(str(made.save(output)))
    if flag_values.export:
        folder = vector_export.export_vectors(
            flag_values.export,
            store.global_blocks,
            fingerprint=store.fingerprint,
            whitening=settings.index_arguments(message)["whitening"],
            formats=flag_values.export_formats,
        )
        command_line.write_result(str(folder))


def build(message: experiment_pb2.Experiment, store: FeatureStore, **kwargs: Any) -> VectorIndex:
    """Builds the index that the config names, of a store's global descriptors.

    Raises:
      InputError: a store without global descriptors or images, settings that do not fit.
    """
    made = first_stage.build_first_stage(
        store.global_blocks,
        message.index.type,
        num_images=len(store.ids()),
        database_augmentation=settings.augmentation_arguments(message),
        fingerprint=store.fingerprint,
        **settings.index_arguments(message),
        **kwargs,
    )
    settings.set_effort(made, message)
    return made


def add_images(path: str, store: FeatureStore) -> VectorIndex:
    """Returns the index at `path` with the images of the store that it lacks; nothing is written.

    Raises:
      InputError: no index, or one of other features.
    """
    made = index.load_index(path, fingerprint=store.fingerprint)
    known = set(made.ids)
    before = len(made)
    for ids, vectors in store.global_blocks():
        new = [row for row, one in enumerate(ids) if one not in known]
        if new:
            made.add(GlobalDescriptors(tuple(ids[row] for row in new), vectors[new]))
    _log_added(len(made) - before, store)
    return made


def _add(flag_values: flags.FlagValues, store: FeatureStore, output: Path) -> Path:
    if not local_search.is_local(flag_values.add_to):
        if flag_values.output:
            _require_new(flag_values, output)
        return add_images(flag_values.add_to, store).save(output)
    require(
        not flag_values.output,
        "An index of local features must be added to where it is.",
        hint="Leave out --output, or copy the folder first.",
        output=output,
    )
    read = local_indexes.reader(store)
    folder, num_added = local_search.add_to_local(
        output, store.ids(), read, fingerprint=store.fingerprint
    )
    _log_added(num_added, store)
    return folder


def _require_new(flag_values: flags.FlagValues, output: Path) -> None:
    require_absent(
        "The index", output, flag_values.overwrite, hint="--overwrite replaces it, --add_to adds."
    )


def _log_added(num_added: int, store: FeatureStore) -> None:
    num_there = len(store.ids()) - num_added
    logging.info("%d images added; %d were there already.", num_added, num_there)


def _extra_arguments(flag_values: flags.FlagValues, type_: str, output: Path) -> dict[str, Any]:
    """Returns the arguments of `create_index` that no config names."""
    extra: dict[str, Any] = {} if flag_values.keep_vectors else {"keep_vectors": False}
    if type_ == "milvus":
        local = output.with_name(f"{output.name}.db")
        extra["uri"] = os.environ.get("MILVUS_URI") or str(local)
        extra["collection"] = flag_values.collection
        extra["replace"] = flag_values.overwrite
    return extra


def _experiment(flag_values: flags.FlagValues) -> experiment_pb2.Experiment:
    message = settings.optional_experiment(flag_values)
    if not message.index.HasField("type"):
        message.index.type = "auto"
    for name in ("type", "whitening", "dtype"):
        if flag_values[name].value is not None:
            setattr(message.index, name, flag_values[name].value)
    for name in ("codebook", "num_words"):
        if flag_values[name].value is not None:
            setattr(message.index.asmk, name, flag_values[name].value)
    return message


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
