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

import contextlib
import dataclasses
import importlib
import inspect
import json
import math
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from delf_tf import artifacts
from delf_tf.checks import UsageError, did_you_mean
from delf_tf.report.tables import Table, facts, of_result
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
flags.DEFINE_boolean("json", False, "print JSON instead of tables", flag_values=FLAGS)
flags.DEFINE_multi_string(
    "set", [], "argument of the benchmark, name=value; repeatable", flag_values=FLAGS
)

flags.DEFINE_string(
    "output_dir", None, "folder for the figures as JSON, and for plots", flag_values=FLAGS
)

# What is measured -> module and function, imported when asked for.
BENCHMARKS = {
    "extract": ("delf_tf.benchmarks.extraction", "run"),
    "verify": ("delf_tf.benchmarks.matching", "run"),
    "pairs": ("delf_tf.benchmarks.real_pairs", "run"),
    "photos": ("delf_tf.benchmarks.photo_pairs", "run"),
    "search": ("delf_tf.benchmarks.vector_search", "run"),
    "asmk": ("delf_tf.benchmarks.local_search", "run"),
    "local": ("delf_tf.benchmarks.local_search", "run_local"),
    "input": ("delf_tf.benchmarks.training_input", "run"),
}

# What a value of JSON may be by itself -> the words for it.
_PLAIN = {
    int: "a whole number of 0 or more",
    float: "a number of 0 or more",
    bool: "true or false",
    str: "text",
    type(None): "null",
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
    result = run(**parse_options(run, flag_values.set))
    if flag_values.output_dir:
        _write(name, result, Path(flag_values.output_dir))
    if flag_values.json:
        command_line.write_result(command_line.to_json(result))
        return
    for table in tables(name, result):
        command_line.write_result(table.to_text() + "\n")
    command_line.write_result(facts(result))


def parse_options(run: Callable[..., Any], items: Sequence[str]) -> dict[str, Any]:
    """Returns keyword arguments of `run` from "name=value" items.

    Raises:
      UsageError: not of that form, a name that `run` does not take, a value of another type, or
        one that it needs is not there.
    """
    parameters = inspect.signature(run).parameters
    hints = typing.get_type_hints(run)
    known = [name for name in parameters if _words(hints[name]) not in ("", "null")]
    required = [name for name in known if parameters[name].default is inspect.Parameter.empty]
    options = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(
                f"--set takes {', '.join(known)} as NAME=VALUE. {hint} Received: {item}."
            )
        options[name] = _parsed(name, value, hints[name])
    missing = [name for name in required if name not in options]
    if missing:
        raise UsageError(f"--set={missing[0]}=VALUE must be given. Received: {' '.join(items)!r}.")
    return options


def _parsed(name: str, text: str, wanted: Any) -> Any:
    """Returns what a flag's text, JSON or plain words, means as a value of the wanted type."""
    values = [text]
    with contextlib.suppress(ValueError, RecursionError):
        values.insert(0, json.loads(text))
    for value in values:
        with contextlib.suppress(TypeError):
            return _typed(value, wanted)
    raise UsageError(f"--set={name} must be {_words(wanted)}. Received: {name}={text}.")


def _typed(value: Any, wanted: Any) -> Any:
    """Returns a value of JSON as one of a type; objects become dataclasses.

    Raises:
      TypeError: it is none.
    """
    arguments = typing.get_args(wanted)
    if _is_union(wanted):
        fitting = [one for one in arguments if _fits(value, one)]
        return _typed(value, (fitting or arguments)[0])
    if typing.get_origin(wanted) is Sequence and isinstance(value, list):
        return tuple(_typed(one, arguments[0]) for one in value)
    if dataclasses.is_dataclass(wanted) and isinstance(value, dict):
        hints = typing.get_type_hints(wanted)
        strange = set(value) - set(hints)
        if not strange:
            return wanted(**{name: _typed(one, hints[name]) for name, one in value.items()})
    if wanted is float and type(value) is int:
        return float(value)
    plain = wanted in _PLAIN and type(value) is wanted
    if not plain or (type(value) in (int, float) and not 0 <= value < math.inf):
        raise TypeError(value)
    return value


def _fits(value: Any, wanted: Any) -> bool:
    try:
        _typed(value, wanted)
    except TypeError:
        return False
    return True


def _words(wanted: Any) -> str:
    """Returns what a type is to who types it; nothing for what no command line can give."""
    arguments = typing.get_args(wanted)
    if _is_union(wanted):
        return " or ".join(filter(None, map(_words, arguments)))
    if typing.get_origin(wanted) is Sequence:
        return f"a list of: {_words(arguments[0])}"
    if dataclasses.is_dataclass(wanted):
        fields = typing.get_type_hints(wanted).items()
        return "an object with " + ", ".join(f"{name} ({_words(one)})" for name, one in fields)
    return _PLAIN.get(wanted, "")


def _is_union(wanted: Any) -> bool:
    return typing.get_origin(wanted) in (typing.Union, types.UnionType)


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
