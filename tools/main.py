"""delf_tf: instance-level image retrieval in TensorFlow.

Usage: delf_tf TOOL [--flag=value ...]; `delf_tf TOOL --help` shows a tool's flags.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from delf_tf.checks import did_you_mean

# A tool is a module of delf_tf.tools with `main` and `FLAGS`, and a row here.
TOOLS = {
    "demo": "make photographs of generated landmarks, train on some, retrieve others",
    "retrieve": "folders of images in; features, search, re-ranking, scores and a report out",
    "visualize": "an image in, a picture of what the network sees in it out",
    "match": "two images in, a picture of their inliers out",
    "build_tfrecords": "labelled images in, TFRecord shards to train on out",
    "train": "TFRecords or a store in, weights out; resumes; one device, many, or a TPU",
    "extract": "a folder of images in, a feature store out; resumes, shards",
    "convert_weights": "weights of other programs in, a checked weights file out",
    "fit_whitening": "global descriptors in, their PCA whitening out, for an index or a network",
    "convert_features": "features of other programs in, a store out; or the other way round",
    "export": "an experiment in; a SavedModel, or the network in 8 bits for OpenVINO, out",
    "build_index": "a feature store in, an index to search out",
    "search": "a feature store or an index in, a ranking out: the first stage alone",
    "pairs": "a ranking in; pairs and matches for COLMAP, hloc or a table out",
    "group": "a feature store in; near-duplicates and groups of one place out, as labels",
    "evaluate": "a ranking and a ground truth in, scores out",
    "compare": "one stage or two: any list of pipelines on the same images, side by side",
    "serve": "a page and a JSON API: drop a picture, see what one and two stages find",
    "benchmark": "time extraction, verification or search, beside peers",
    "rerank": "a ranking and features in; its head verified geometrically and re-ordered",
}
# Former tools, and what does their work.
_FORMER = {"quantize": "export", "train_similarity": "train"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool that the first argument names; returns its exit code."""
    argv = list(sys.argv if argv is None else argv)
    name = argv[1] if len(argv) > 1 else "--help"
    if name in ("-h", "--help", "help"):
        sys.stdout.write(f"{__doc__}\nTools:\n{_list_tools()}\n")
        return 0
    if name not in TOOLS:
        hint = did_you_mean(_FORMER.get(name, name), TOOLS)
        sys.stderr.write(f"delf_tf: no tool '{name}'. {hint}\n{_list_tools()}\n")
        return 2
    # Light to import, heavy libraries come with the tool that needs them.
    from delf_tf.tools import command_line  # noqa: PLC0415

    tool = importlib.import_module(f"delf_tf.tools.{name}")
    return command_line.run(tool.main, tool.FLAGS, [f"delf_tf {name}", *argv[2:]])


def _list_tools() -> str:
    return "\n".join(f"  {name:16} {summary}" for name, summary in TOOLS.items())


if __name__ == "__main__":
    sys.exit(main())
