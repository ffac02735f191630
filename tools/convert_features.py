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

from delf_tf.checks import UsageError
from delf_tf.features.formats import interchange
from delf_tf.features.recoding import Change, recode
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import extraction
from delf_tf.retrieval.second_stage.learned import LearnedSimilarity
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_choice(
    "import_format", interchange.OPENERS, "format of --input; default: a store of ours"
)
FLAGS.add_choice(
    "export_format", interchange.EXPORTERS, "format of --output; default: a store of ours"
)
FLAGS.add_text("input", "features to convert")
FLAGS.add_text("output", "converted features")
FLAGS.add_text(
    "local_codec",
    "storage of local features: float32, float16, int8 or signs",
    "float32",
)
FLAGS.add_text("student", "weights of a student of AMES, whose codes a copy is to hold")
FLAGS.add_switch("overwrite", "replace an existing output")
FLAGS.add_max_failed()


def main(flags: command_line.Flags) -> int:
    """Runs the tool."""
    source, output = flags.require("input", "output")
    if flags.import_format and flags.export_format:
        raise UsageError("Either --import_format or --export_format must be given, or none.")
    if flags.export_format:
        path = interchange.export_features(
            FeatureStore(source), output, flags.export_format, overwrite=flags.overwrite
        )
        command_line.write_result(str(path))
        return command_line.DONE
    storage = flags.pick("local_codec", "overwrite")
    if flags.import_format:
        path = interchange.import_features(source, output, flags.import_format, **storage)
    else:
        change = None
        if flags.student:
            learned = LearnedSimilarity(flags.student)
            change = Change(learned.codes, learned.num_bits, learned.fingerprint)
        path = recode(FeatureStore(source), output, change=change, **storage)
    store = FeatureStore(path)
    extraction.log_summary(store)
    extraction.write_failures(store.failed().items(), output)
    command_line.write_result(str(path))
    return command_line.exit_code(store, flags.max_failed_fraction)


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
