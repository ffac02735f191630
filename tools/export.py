"""export: an experiment's network in; a SavedModel, or the network in 8 bits for OpenVINO, out.

delf_tf export --config=CONFIG --weights=PATH --output_dir=models/landmarks/1
delf_tf export … --kind=global --fixed_scales --pool_scales    image in, one descriptor out
delf_tf export … --images_dir=DIR --output_dir=NETWORK         8 bits, calibrated on your images

TensorFlow Serving serves a SavedModel as it is. Its signature serving_default is the original DELF
code's (input_image, input_scales, … in; boxes, features, scales, scores, global_descriptors out);
extract is what delf_tf.load_extractor calls. Both take a decoded image, at the size that it is to
be extracted at.

OpenVINO runs 8 bits 2 to 4 times as fast: `extract … --backend=openvino --precision=int8
--quantized_network=NETWORK`. Give up to 300 images like those that will be extracted, no labels.
NETWORK names them, and the cosine of its descriptors to those in float32; another model or other
weights refuse it.
"""

from __future__ import annotations

import sys

from delf_tf.export import KINDS
from delf_tf.pipelines import export
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_config()
FLAGS.add_text("output_dir", "folder to write")
FLAGS.add_text("kind", f"{', '.join(KINDS)}; default: what the config extracts")
FLAGS.add_switch("fixed_scales", "bake the scales in: serving_default takes only the image")
FLAGS.add_switch("pool_scales", "pool the scales: serving_default returns one global descriptor")
FLAGS.add_text("local_pca", "fitted PCA of local descriptors (.npz)")
FLAGS.add_text("images_dir", "folder of images to calibrate a network in 8 bits on")
FLAGS.add_count("max_num_images", "most images calibrated on", 300, most=300)
FLAGS.add_switch("overwrite", "replace an existing output")


def main(flags: command_line.Flags) -> None:
    """Runs the tool."""
    (output_dir,) = flags.require("output_dir")
    message = flags.read_config()
    if flags.images_dir:
        options = flags.pick("max_num_images", "overwrite")
        path, words = export.quantize(message, flags.images_dir, output_dir, **options)
        command_line.write_result(f"{path}: {words}")
        return
    options = flags.pick("kind", "fixed_scales", "pool_scales", "local_pca", "overwrite")
    command_line.write_result(str(export.export(message, output_dir, **options)))


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
