"""benchmark: times a stage beside its peers, with the machine and versions beside the numbers.

delf_tf benchmark NAME [--json] [--output_dir=OUT] [--set=NAME=VALUE …]

extract: files to stored features, beside the original's way; verify: pairs of images; pairs and
photos: real pairs with homographies (--set=directory=DIR), or labelled photographs (also
--set=labels=CSV); search: indexes beside exact search; asmk and local: the indexes of local
features; input: TFRecords to training batches (--set=file_pattern=GLOB for your own).
--set changes sizes and repeats, such as --set=rounds=9 or --set='settings=["global"]'; values are
JSON, or plain words. OUT receives NAME.json, and plots of what verify costs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from delf_tf import artifacts, options
from delf_tf.checks import UsageError
from delf_tf.report.tables import Table, facts, of_result
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
flags.DEFINE_boolean("json", False, "print JSON instead of tables", flag_values=FLAGS)
flags.DEFINE_multi_string(
    "set", [], "argument of the benchmark, NAME=VALUE; repeatable", flag_values=FLAGS
)

flags.DEFINE_string(
    "output_dir", None, "folder that receives the results as JSON, and plots", flag_values=FLAGS
)

# What is measured -> module and function, imported when asked for.
BENCHMARKS = {
    "extract": ("delf_tf.benchmarks.extraction", "run"),
    "verify": ("delf_tf.benchmarks.matching", "run"),
    "pairs": ("delf_tf.benchmarks.real_pairs", "run"),
    "photos": ("delf_tf.benchmarks.real_pairs", "run_photos"),
    "search": ("delf_tf.benchmarks.vector_search", "run"),
    "asmk": ("delf_tf.benchmarks.local_search", "run"),
    "local": ("delf_tf.benchmarks.local_search", "run_local"),
    "scale": ("delf_tf.benchmarks.scale", "run"),
    "input": ("delf_tf.benchmarks.training_input", "run"),
}


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    if len(arguments) != 1 or arguments[0] not in BENCHMARKS:
        raise UsageError(
            f"One of {', '.join(BENCHMARKS)} must be named. Received: {' '.join(arguments)!r}."
        )
    (name,) = arguments
    module, function = BENCHMARKS[name]
    run = getattr(importlib.import_module(module), function)
    result = run(**options.parse_options(run, flag_values.set))
    if flag_values.output_dir:
        _write(name, result, Path(flag_values.output_dir))
    if flag_values.json:
        command_line.write_result(command_line.to_json(result))
        return
    for table in tables(name, result):
        command_line.write_result(table.to_text() + "\n")
    command_line.write_result(facts(result))


def _write(name: str, result: dict[str, Any], output_dir: Path) -> None:
    artifacts.write_json(output_dir / f"{name}.json", result)
    if name == "verify":
        from delf_tf.benchmarks import plots  # noqa: PLC0415 - loads matplotlib
        from delf_tf.report import plots as report_plots  # noqa: PLC0415 - loads matplotlib

        figure = plots.verification_costs(result["rows"])
        report_plots.save_figure(figure, output_dir / "verify.png")


def tables(name: str, result: dict[str, Any]) -> list[Table]:
    """Returns a benchmark's result as tables."""
    if name == "extract":
        from delf_tf.benchmarks import extraction, network_rate  # noqa: PLC0415 - TensorFlow

        rows = extraction.table(result), network_rate.table(result["network"])
        return [Table("", one[0], one[1:]) for one in rows]
    return of_result(result)


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
