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

import json
import sys
from collections.abc import Sequence

from absl import flags, logging

from delf_tf.checks import require_absent
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
flags.DEFINE_string("source", None, "program that made the weights", flag_values=FLAGS)
flags.DEFINE_string("input", None, "weights to convert", flag_values=FLAGS)
flags.DEFINE_string("local", None, "weights of xfeat, for compact_parts", flag_values=FLAGS)
flags.DEFINE_integer(
    "attention_dim",
    0,
    "hidden channels of a random attention, for compact_parts; 0: none",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_string("output", None, "weights file (.npz) to write", flag_values=FLAGS)
flags.DEFINE_string(
    "reference", None, "reference outputs (.npz) to compare with", flag_values=FLAGS
)
flags.DEFINE_boolean("overwrite", False, "replace an existing output", flag_values=FLAGS)
flags.DEFINE_boolean("json", False, "print the result as JSON", flag_values=FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Runs the tool."""
    command_line.no_positional(arguments)
    source, input_path, output_path = command_line.required(
        flag_values, "source", "input", "output"
    )
    from delf_tf.models.zoo import conversion, joined  # noqa: PLC0415 - TensorFlow takes seconds

    if source == joined.SOURCE:
        (local,) = command_line.required(flag_values, "local")
        require_absent("The output", output_path, flag_values.overwrite)
        path = joined.join_files(
            joined.NAME, input_path, local, output_path, attention_dim=flag_values.attention_dim
        )
        command_line.write_result(
            json.dumps({"path": str(path)}) if flag_values.json else str(path)
        )
        return command_line.DONE
    result = conversion.convert_weights(
        source,
        input_path,
        output_path,
        reference=flag_values.reference,
        overwrite=flag_values.overwrite,
    )
    for what, value in result.get("differences", {}).items():
        logging.info("%s difference: %.2e", what, value)
    command_line.write_result(json.dumps(result) if flag_values.json else str(result["path"]))
    return command_line.DONE


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
