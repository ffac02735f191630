"""extract: a folder of images in, a feature store out; killed or crashed, the same command goes on.

delf_tf extract --config=CONFIG --weights=PATH --images_dir=DIR --output_dir=STORE
delf_tf extract … --shard_index=3 --num_shards=16    (any scheduler; one process a shard)
delf_tf extract … --num_shards=16 --beam=--runner=DaskRunner --beam=--dask_client_address=HOST:8786
delf_tf extract … --precision=bfloat16 --local_codec=float16    (twice as fast; half as large)

Run again, it follows the folder: it extracts what is new or has changed, and leaves out what is
gone. --compact then deletes the features of images that are gone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from delf_tf.datasets import folder
from delf_tf.features.generations import compaction
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import extraction
from delf_tf.pipelines.runtime import Runtime
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS, extraction=True)
flags.DEFINE_string("images_dir", None, "folder of images, searched recursively", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "feature store to write or to complete", flag_values=FLAGS)
flags.DEFINE_string("local_pca", None, "fitted PCA of local descriptors (.npz)", flag_values=FLAGS)
command_line.define_count(
    FLAGS, "shard_index", 0, "index of the shard that this process extracts", least=0
)
command_line.define_count(FLAGS, "num_shards", 1, "total number of shards")
command_line.define_count(FLAGS, "num_threads", 2, "threads for decoding images")
command_line.define_count(
    FLAGS,
    "batch_size",
    1,
    "images of similar size in one forward pass; 8 or more on an accelerator",
)
flags.DEFINE_boolean("overwrite", False, "start again, replacing the store", flag_values=FLAGS)
flags.DEFINE_boolean(
    "compact", False, "rewrite the store without images that are gone", flag_values=FLAGS
)
command_line.define_beam_flag(FLAGS)
command_line.define_failed_flag(FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Runs the tool."""
    command_line.no_positional(arguments)
    images_dir, output_dir = command_line.required(flag_values, "images_dir", "output_dir")
    runtime = Runtime(command_line.read_config(flag_values), local_pca=flag_values.local_pca)
    sharding = extraction.Sharding(
        **{name: flag_values[name].value for name in extraction.Sharding._fields}
    )
    if flag_values.beam:
        path = extraction.extract_by_beam(
            runtime, images_dir, output_dir, flag_values.beam, sharding
        )
    else:
        path = extraction.extract(runtime, folder.list_images(images_dir), output_dir, sharding)
    if flag_values.compact:
        compaction.compact(path)
    store = FeatureStore(path, allow_incomplete=flag_values.num_shards > 1)
    extraction.log_summary(store)
    extraction.write_failures(store.failed().items(), output_dir)
    command_line.write_result(str(path))
    return command_line.exit_code(len(store.failed()), len(store), flag_values.max_failed_fraction)


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
