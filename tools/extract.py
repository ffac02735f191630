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

from delf_tf.datasets import folder
from delf_tf.features.generations import compaction
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import extraction
from delf_tf.pipelines.runtime import Runtime
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_config(extraction=True)
FLAGS.add_text("images_dir", "folder of images, searched recursively")
FLAGS.add_text("output_dir", "feature store to write or to complete")
FLAGS.add_text("local_pca", "fitted PCA of local descriptors (.npz)")
FLAGS.add_count("shard_index", "index of the shard that this process extracts", 0, least=0)
FLAGS.add_count("num_shards", "total number of shards", 1)
FLAGS.add_count("num_threads", "threads for decoding images", 2)
FLAGS.add_count(
    "batch_size", "images of similar size in one forward pass; 8 or more on an accelerator", 1
)
FLAGS.add_switch("overwrite", "start again, replacing the store")
FLAGS.add_switch("compact", "rewrite the store without images that are gone")
FLAGS.add_beam()
FLAGS.add_max_failed()


def main(flags: command_line.Flags) -> int:
    """Runs the tool."""
    images_dir, output_dir = flags.require("images_dir", "output_dir")
    runtime = Runtime(flags.read_config(), local_pca=flags.local_pca)
    sharding = extraction.Sharding(**flags.pick(*extraction.Sharding._fields))
    if flags.beam:
        path = extraction.extract_by_beam(runtime, images_dir, output_dir, flags.beam, sharding)
    else:
        path = extraction.extract(runtime, folder.list_images(images_dir), output_dir, sharding)
    if flags.compact:
        compaction.compact(path)
    store = FeatureStore(path, allow_incomplete=flags.num_shards > 1)
    extraction.log_summary(store)
    extraction.write_failures(store.failed().items(), output_dir)
    command_line.write_result(str(path))
    return command_line.exit_code(store, flags.max_failed_fraction)


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
