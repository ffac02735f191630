"""convert_features: features of another program in, a feature store out; or the other way round.

delf_tf convert_features --import_format=hloc --input=features.h5 --output=STORE
delf_tf convert_features --export_format=delf --input=STORE --output=DIR
delf_tf convert_features --input=STORE --output=SMALLER --local_codec=int8

Formats: delf (folder of the original's .delf, or .delg_local and .delg_global), hloc (one HDF5
file), npy (global descriptors alone, ids beside them), parquet (the same for vector databases, only
written). Where a feature's pixel is, each format says in its own way; it is converted. An import
that was killed goes on.

Without a format a store is copied with another --local_codec.

delf_tf convert_features --input=STORE --output=CODES --local_codec=signs --student=weights.npz

Of the strongest features the codes alone are kept that a student of AMES compares
(rerank.learned.weights): 16 bytes and 7 for place, size and score of each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from delf_tf.checks import UsageError
from delf_tf.features.formats import interchange
from delf_tf.features.recoding import Change, recode
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import extraction
from delf_tf.retrieval.second_stage.learned import LearnedSimilarity
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
flags.DEFINE_enum(
    "import_format",
    None,
    list(interchange.OPENERS),
    "format of --input; default: a store of ours",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "export_format",
    None,
    list(interchange.EXPORTERS),
    "format of --output; default: a store of ours",
    flag_values=FLAGS,
)
flags.DEFINE_string("input", None, "features to convert", flag_values=FLAGS)
flags.DEFINE_string("output", None, "converted features", flag_values=FLAGS)
flags.DEFINE_string(
    "local_codec",
    "float32",
    "storage of local features: float32, float16, int8 or signs",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "student",
    "",
    "weights of a student of AMES, whose codes a copy is to hold",
    flag_values=FLAGS,
)
flags.DEFINE_boolean("overwrite", False, "replace an existing output", flag_values=FLAGS)
command_line.define_failed_flag(FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Runs the tool."""
    command_line.no_positional(arguments)
    source, output = command_line.required(flag_values, "input", "output")
    if flag_values.import_format and flag_values.export_format:
        raise UsageError("Either --import_format or --export_format must be given, or none.")
    if flag_values.export_format:
        path = interchange.export_features(
            FeatureStore(source),
            output,
            flag_values.export_format,
            overwrite=flag_values.overwrite,
        )
        command_line.write_result(str(path))
        return command_line.DONE
    storage = {"local_codec": flag_values.local_codec, "overwrite": flag_values.overwrite}
    if flag_values.import_format:
        path = interchange.import_features(source, output, flag_values.import_format, **storage)
    else:
        change = None
        if flag_values.student:
            learned = LearnedSimilarity(flag_values.student)
            change = Change(learned.codes, learned.num_bits, learned.fingerprint)
        path = recode(FeatureStore(source), output, change=change, **storage)
    store = FeatureStore(path)
    extraction.log_summary(store)
    extraction.write_failures(store.failed().items(), output)
    command_line.write_result(str(path))
    return command_line.exit_code(len(store.failed()), len(store), flag_values.max_failed_fraction)


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
