"""quantize: a network in 8 bits, calibrated on your images; OpenVINO runs it 2 to 4 times as fast.

delf_tf quantize --config=CONFIG --weights=PATH --images_dir=DIR --output_dir=NETWORK
delf_tf extract … --backend=openvino --precision=int8 --quantized_network=NETWORK

Up to 300 images like those that will be extracted, no labels. NETWORK names them, and the cosine of
its descriptors to those in float32; another model or other weights refuse it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from delf_tf.checks import require_absent
from delf_tf.datasets import folder
from delf_tf.pipelines.runtime import Runtime
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS)
flags.DEFINE_string("images_dir", None, "folder of images, searched recursively", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "the folder of the network to make", flag_values=FLAGS)
command_line.define_count(FLAGS, "max_num_images", 300, "most images calibrated on", most=300)
flags.DEFINE_boolean("overwrite", False, "replace what is at --output_dir", flag_values=FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    images_dir, output_dir = command_line.required(flag_values, "images_dir", "output_dir")
    require_absent("output_dir", output_dir, flag_values.overwrite)
    # Imported late: NNCF and OpenVINO are an extra.
    from delf_tf.extraction.backends import quantization  # noqa: PLC0415

    runtime = Runtime(command_line.read_config(flag_values))
    written = quantization.quantize(
        runtime.exported_network(),
        folder.list_images(images_dir),
        runtime.loader(),
        output_dir,
        image_scales=runtime.message.extraction.image_scales or (1.0,),
        max_num_images=flag_values.max_num_images,
    )
    cosines = ", ".join(
        f"{name} median {cosine['median']:.4f}, least {cosine['min']:.4f}"
        for name, cosine in written.calibration["cosine"].items()
    )
    command_line.write_result(
        f"{written.path}: {len(written.calibration['images'])} images; cosine to float32: {cosines}"
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
