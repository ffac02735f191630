"""convert_weights: weights of another program in, a weights file of ours out, every array checked.

delf_tf convert_weights --source=SOURCE --input=PATH --output=WEIGHTS.npz
    --input: .npz (name -> array), .safetensors, .h5, .pdparams, .pth, .pt, or a TensorFlow
    checkpoint; the other program is not needed. The result carries the network's options and
    preprocessing: delf_tf.create_model(NAME, weights=WEIGHTS.npz) needs nothing more and takes
    RGB 0..255.
delf_tf convert_weights --source=delf_tf --input=WEIGHTS.npz --output=HALF.npz
    writes our own file again in float16, half as large.
delf_tf convert_weights --source=compact_parts --input=LITE.npz --local=XFEAT.npz --output=PARTS.npz
    joins weights of gem_efficientnet_lite2 and xfeat to those of compact_efficientnet_lite2. With
    --attention_dim=128 it has a random attention for `train --config=compact_attention`.
delf_tf convert_weights … --reference=REFERENCE.npz
    compares with the other program's own output; REFERENCE holds "image" [H, W, 3] uint8 RGB,
    "network_input" [H, W, 3] (what it made of the image) and "descriptor" [D].
"""

from __future__ import annotations

import sys

from absl import logging

from delf_tf.checks import require_absent
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_text("source", "program that made the weights")
FLAGS.add_text("input", "weights to convert")
FLAGS.add_text("local", "weights of xfeat, for compact_parts")
FLAGS.add_count(
    "attention_dim",
    "hidden channels of a random attention, for compact_parts; 0: none",
    0,
    least=0,
)
FLAGS.add_text("output", "weights file (.npz) to write")
FLAGS.add_text("reference", "reference outputs (.npz) to compare with")
FLAGS.add_switch("overwrite", "replace an existing output")
FLAGS.add_switch("json", "print the result as JSON")


def main(flags: command_line.Flags) -> None:
    """Runs the tool."""
    source, input_path, output_path = flags.require("source", "input", "output")
    from delf_tf.models.zoo import conversion, joined  # noqa: PLC0415 - TensorFlow takes seconds

    if source == joined.SOURCE:
        (local,) = flags.require("local")
        require_absent("The output", output_path, flags.overwrite)
        files = input_path, local, output_path
        path = joined.join_files(joined.NAME, *files, attention_dim=flags.attention_dim)
        result = {"path": str(path)}
    else:
        options = flags.pick("reference", "overwrite")
        result = conversion.convert_weights(source, input_path, output_path, **options)
    for what, value in result.get("differences", {}).items():
        logging.info("%s difference: %.2e", what, value)
    command_line.write_result(command_line.to_json(result) if flags.json else str(result["path"]))


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
