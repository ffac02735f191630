"""extract: a folder of images in, a feature store out; killed or crashed, the same command goes on.

delf_tf extract --config=CONFIG --weights=PATH --images_dir=DIR --output_dir=STORE
delf_tf extract … --shard_index=3 --num_shards=16    (any scheduler; one process a shard)
delf_tf extract … --num_shards=16 --beam=--runner=DataflowRunner --beam=--project=P …
delf_tf extract … --precision=bfloat16 --local_codec=float16    (twice as fast; half as large)
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags, logging

from delf_tf import artifacts
from delf_tf.datasets import folder
from delf_tf.features.store import FeatureStore
from delf_tf.protos import experiment_pb2
from delf_tf.tools import command_line, experiment, failures
from delf_tf.types import ImageRef

FLAGS = flags.FlagValues()
experiment.define_flags(FLAGS)
experiment.define_extraction_flags(FLAGS)
flags.DEFINE_string("images_dir", None, "folder of images, searched recursively", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "the feature store to write or complete", flag_values=FLAGS)
flags.DEFINE_string("local_pca", None, "fitted PCA of local descriptors (.npz)", flag_values=FLAGS)
command_line.define_count(FLAGS, "shard_index", 0, "which shard this process extracts", least=0)
command_line.define_count(FLAGS, "num_shards", 1, "processes that share the work")
command_line.define_count(FLAGS, "num_threads", 2, "threads that decode images")
command_line.define_count(
    FLAGS,
    "batch_size",
    1,
    "images of like size that the network sees at once; 8 or more on an accelerator",
)
flags.DEFINE_boolean("overwrite", False, "start anew, whatever the store holds", flag_values=FLAGS)
flags.DEFINE_multi_string(
    "beam",
    [],
    "flag of Apache Beam, such as --runner=FlinkRunner; extracts all shards; repeatable",
    flag_values=FLAGS,
)
failures.define_flag(FLAGS)


class Sharding(NamedTuple):
    """Which part of the work is this process's; see engine.extract_to_store."""

    shard_index: int = 0
    num_shards: int = 1
    num_threads: int = 2
    batch_size: int = 1
    overwrite: bool = False


def extract(
    message: experiment_pb2.Experiment,
    refs: Sequence[ImageRef],
    store_dir: artifacts.StrPath,
    *,
    local_pca: artifacts.StrPath | None = None,
    sharding: Sharding = Sharding(),  # noqa: B008 - immutable
) -> Path:
    """Extracts `refs` with the experiment's model into a store and returns the store's path."""
    from delf_tf.extraction import engine  # noqa: PLC0415 - TensorFlow takes seconds to load

    start = time.monotonic()
    path = engine.extract_to_store(
        refs,
        experiment.create_extractor(message, local_pca=local_pca),
        store_dir,
        loader=experiment.create_loader(message),
        **_store_options(message, local_pca),
        **sharding._asdict(),
    )
    logging.info("Extracted into %s in %.1f s.", path, time.monotonic() - start)
    return path


def extract_by_beam(
    message: experiment_pb2.Experiment,
    images_dir: artifacts.StrPath,
    store_dir: artifacts.StrPath,
    beam_flags: Sequence[str],
    *,
    local_pca: artifacts.StrPath | None = None,
    sharding: Sharding = Sharding(),  # noqa: B008 - immutable
) -> Path:
    """Extracts all shards of a folder by an Apache Beam pipeline; returns the store's path."""
    from delf_tf.extraction import beam  # noqa: PLC0415 - an extra

    options = _store_options(message, local_pca)
    job = beam.ExtractionJob(
        list_images=functools.partial(folder.list_images, images_dir),
        make_extractor=functools.partial(experiment.create_extractor, message, local_pca=local_pca),
        make_loader=functools.partial(experiment.create_loader, message),
        store_dir=store_dir,
        fingerprint=options.pop("fingerprint"),
        num_shards=sharding.num_shards,
        options={
            **options,
            "num_threads": sharding.num_threads,
            "batch_size": sharding.batch_size,
            "overwrite": sharding.overwrite,
        },
    )
    return beam.run(job, beam_flags)


def _store_options(
    message: experiment_pb2.Experiment, local_pca: artifacts.StrPath | None
) -> dict[str, Any]:
    """Returns what engine.extract_to_store needs to make or continue the store."""
    return {
        "fingerprint": store_fingerprint(message, local_pca),
        "local_codec": message.extraction.local_codec,
        "block_size": message.extraction.block_size,
    }


def store_fingerprint(
    message: experiment_pb2.Experiment, local_pca: artifacts.StrPath | None
) -> str:
    """Returns the fingerprint of the stores that `extract` makes with these arguments."""
    files = [path for path in (local_pca, message.extraction.local_codec) if path]
    contents = [artifacts.file_fingerprint(path) for path in files if Path(path).is_file()]
    return experiment.extraction_fingerprint(message, *contents)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Runs the tool."""
    command_line.no_positional(arguments)
    images_dir, output_dir = command_line.required(flag_values, "images_dir", "output_dir")
    message = experiment.from_flags(flag_values)
    options = {
        "local_pca": flag_values.local_pca,
        "sharding": Sharding(**{name: flag_values[name].value for name in Sharding._fields}),
    }
    if flag_values.beam:
        path = extract_by_beam(message, images_dir, output_dir, flag_values.beam, **options)
    else:
        path = extract(message, folder.list_images(images_dir), output_dir, **options)
    store = FeatureStore(path, allow_incomplete=flag_values.num_shards > 1)
    failures.log_summary(store)
    failures.write(store.failed().items(), output_dir)
    command_line.write_result(str(path))
    return failures.exit_code(store, flag_values.max_failed_fraction)


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
