"""benchmark: times a stage beside its peers, with the machine and versions beside the numbers.

delf_tf benchmark NAME|all [--json] [--output_dir=OUT] [--set=NAME=VALUE …]

extract: files to stored features, beside the original's way; verify: pairs of images; pairs and
photos: real pairs with homographies (--set=directory=DIR), or labelled photographs (also
--set=labels=CSV); search: indexes beside exact search; asmk and local: the indexes of local
features; input: TFRecords to training batches (--set=file_pattern=GLOB for your own).
scale: the whole path at ten thousand images to a million; all: every benchmark, each in a process
of its own, and a page, benchmarks.html in OUT, which shows other machines' results beside
(--set='compare_with=["OUT1", "OUT2"]').
--set changes sizes and repeats, such as --set=rounds=9 or --set='settings=["global"]'; values are
JSON, or plain words. OUT receives NAME.json, and plots.
"""

from __future__ import annotations

import sys
from pathlib import Path

from delf_tf import options
from delf_tf.benchmarks import every
from delf_tf.checks import UsageError
from delf_tf.report.tables import facts, of_result
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_switch("json", "print JSON instead of tables")
FLAGS.add_repeated("set", "argument of the benchmark, NAME=VALUE")
FLAGS.add_text("output_dir", "folder that receives the results as JSON, and plots")


def main(flags: command_line.Flags, *arguments: str) -> int | None:
    """Runs the tool."""
    names = (*every.BENCHMARKS, "all")
    if len(arguments) != 1 or arguments[0] not in names:
        raise UsageError(
            f"One of {', '.join(names)} must be named. Received: {' '.join(arguments)!r}."
        )
    (name,) = arguments
    if name == "all":
        (output_dir,) = flags.require("output_dir")
        chosen = options.parse_options(every.run, [f"output_dir={output_dir}", *flags.set])
        result = every.run(**chosen)
    else:
        chosen = options.parse_options(every.function(name), flags.set)
        result = every.measure(name, chosen)
        if flags.output_dir:
            every.keep(name, result, Path(flags.output_dir))
    if flags.json:
        command_line.write_result(command_line.to_json(result))
    else:
        for table in of_result(result):
            command_line.write_result(table.to_text() + "\n")
        command_line.write_result(facts(result))
    return command_line.FAILED if result.get("num_failed") else None


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
