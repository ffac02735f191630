"""What every tool's command line shares: parsing, logging, error lines, exit codes."""

from __future__ import annotations

import json
import logging as python_logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from delf_tf import artifacts, config
from delf_tf.checks import InputError, UsageError, printable
from delf_tf.protos import experiment_pb2

DONE, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130

_EXTRACTION_FLAGS = ("precision", "backend", "quantized_network", "local_codec")

# A tool's work: the parsed flags and the positional arguments in, an exit code (None = 0) out.
Main = Callable[[Any, Sequence[str]], "int | None"]


def run(main: Main, flag_values: flags.FlagValues, argv: Sequence[str] | None = None) -> int:
    """Parses a command line, runs a tool, and turns its errors into one line and an exit code.

    Each tool owns its FlagValues, so that tools can be imported together (one absl registry for
    all refuses two modules with a flag of the same name).

    Args:
      main: called with the parsed flags and the positional arguments.
      flag_values: the tool's flags; its docstring for --help is that of main's module.
      argv: program name and arguments; sys.argv if None.

    Returns:
      0 done, 1 failed, 2 usage, 130 interrupted.
    """
    argv = list(sys.argv if argv is None else argv)
    # Positional arguments may stand before flags: delf_tf match A.jpg B.jpg --output=matches.png
    flag_values.set_gnu_getopt(True)
    module = sys.modules[main.__module__]
    if any(argument in ("--help", "-h", "-help", "--helpfull") for argument in argv[1:]):
        sys.stdout.write(f"{module.__doc__}\n\nFlags:\n{_flags_help(flag_values)}\n")
        return DONE
    program = argv[0] if argv[0].startswith("delf_tf ") else f"delf_tf {Path(argv[0]).stem}"
    try:
        # As unparse_flags, which also logs that it was called.
        for name in flag_values:
            flag_values[name].unparse()
        positional = flag_values(argv)[1:]
        _start_logging()
        return main(flag_values, positional) or DONE
    except (flags.Error, UsageError) as error:
        return _report(program, error, USAGE)
    except InputError as error:
        return _report(program, error, FAILED)
    except OSError as error:
        return _report(program, artifacts.refused(error), FAILED)
    except KeyboardInterrupt:
        return _report(program, "interrupted; run the same command again to go on.", INTERRUPTED)


def define_count(
    flag_values: flags.FlagValues,
    name: str,
    default: int | None,
    what: str,
    *,
    least: int = 1,
    most: int | None = None,
) -> None:
    """Adds a flag of a whole number in `least`..`most` to a tool; others are refused as usage."""
    flags.DEFINE_integer(
        name, default, what, lower_bound=least, upper_bound=most, flag_values=flag_values
    )


def define_config_flags(
    flag_values: flags.FlagValues,
    default_config: str | None = None,
    *,
    weights: bool = True,
    extraction: bool = False,
) -> None:
    """Adds --config and --set to a tool's flags; --weights; those of how features are made."""
    flags.DEFINE_string(
        "config",
        default_config,
        "experiment: a .textproto file, or the name of a shipped config",
        flag_values=flag_values,
    )
    flags.DEFINE_multi_string(
        "set",
        [],
        "override of a config field, path.to.field=value; repeatable",
        flag_values=flag_values,
    )
    define_import_flag(flag_values)
    if weights:
        flags.DEFINE_string(
            "weights",
            None,
            "weights .npz or preset name, instead of the config's; or a folder with a SavedModel, "
            "which is a program: only from whom you trust",
            flag_values=flag_values,
        )
    if extraction:
        flags.DEFINE_enum(
            "precision",
            None,
            ["auto", "float32", "bfloat16", "int8"],
            "numeric precision of inference; overrides the config's; auto: bfloat16 where the "
            "processor multiplies it in hardware; int8: with OpenVINO and --quantized_network",
            flag_values=flag_values,
        )
        flags.DEFINE_enum(
            "backend",
            None,
            ["auto", "tensorflow", "openvino"],
            "engine of inference; overrides the config's; auto: OpenVINO where it is installed and "
            "the machine has no accelerator",
            flag_values=flag_values,
        )
        flags.DEFINE_string(
            "quantized_network",
            None,
            "folder that `quantize` wrote, for --precision=int8",
            flag_values=flag_values,
        )
        flags.DEFINE_string(
            "local_codec",
            None,
            "storage of local features: float32, float16 or int8",
            flag_values=flag_values,
        )


def define_import_flag(flag_values: flags.FlagValues) -> None:
    """Adds --allow_import to a tool's flags."""
    flags.DEFINE_multi_string(
        "allow_import",
        [],
        "package whose code a config may name (my_package.module:Thing) and so run; repeatable",
        flag_values=flag_values,
    )


def read_config(
    flag_values: flags.FlagValues, *, optional: bool = False
) -> experiment_pb2.Experiment:
    """Reads the experiment that the flags of `define_config_flags` describe.

    Args:
      flag_values: the parsed flags.
      optional: without --config, the overrides of all defaults.

    Raises:
      UsageError: no --config, or a config or an override that cannot be understood.
    """
    if flag_values.config:
        message = config.load_experiment(
            flag_values.config,
            flag_values["set"].value,
            allow_imports=flag_values.allow_import,
        )
    elif optional:
        message = experiment_pb2.Experiment()
        for override in flag_values["set"].value:
            config.apply_override(message, override)
        config.check_imports(message, flag_values.allow_import)
    else:
        raise UsageError(f"--config must be given. Shipped: {', '.join(config.list_configs())}.")
    override_by_flags(flag_values, message.model, "weights")
    override_by_flags(flag_values, message.extraction, *_EXTRACTION_FLAGS)
    return message


def override_by_flags(flag_values: flags.FlagValues, section: Any, *names: str) -> None:
    """Sets the fields of a config's section whose flags, if the tool has them, are given."""
    for name in names:
        if name in flag_values and flag_values[name].value not in (None, ""):
            setattr(section, name, flag_values[name].value)


def define_beam_flag(flag_values: flags.FlagValues) -> None:
    """Adds --beam to a tool's flags."""
    flags.DEFINE_multi_string(
        "beam",
        [],
        "make all shards by Apache Beam: one of its flags, e.g. --runner=FlinkRunner; repeatable",
        flag_values=flag_values,
    )


def define_failed_flag(flag_values: flags.FlagValues, default: float = 0.5) -> None:
    """Adds --max_failed_fraction to a tool's flags."""
    flags.DEFINE_float(
        "max_failed_fraction",
        default,
        "exit with 1 if a larger fraction of the images fails",
        lower_bound=0,
        upper_bound=1,
        flag_values=flag_values,
    )


def exit_code(num_failed: int, num_images: int, max_failed_fraction: float = 0.5) -> int:
    """Returns 1 if more than the fraction of the images failed, else 0."""
    if num_failed <= max_failed_fraction * num_images:
        return DONE
    logging.error(
        "%d of %d images failed, more than --max_failed_fraction=%g; see failed_images.csv.",
        num_failed,
        num_images,
        max_failed_fraction,
    )
    return FAILED


def no_positional(arguments: Sequence[str]) -> None:
    """Refuses positional arguments, for tools that take flags alone.

    Raises:
      UsageError: naming them.
    """
    if arguments:
        raise UsageError(f"This tool takes flags only. Received: {' '.join(arguments)!r}.")


def required(flag_values: flags.FlagValues, *names: str) -> list[Any]:
    """Returns the values of flags that must be given.

    Raises:
      UsageError: naming those that are missing.
    """
    missing = [f"--{name}" for name in names if flag_values[name].value in (None, "")]
    if missing:
        named = ", ".join(missing[:-1]) + " and " * (len(missing) > 1) + missing[-1]
        raise UsageError(f"{named} must be given; see --help.")
    return [flag_values[name].value for name in names]


def write_result(text: str) -> None:
    """Writes a tool's result, the only thing that goes to standard output."""
    sys.stdout.write(printable(text.rstrip("\n"), keep="\n\t") + "\n")
    sys.stdout.flush()


def to_json(content: Any) -> str:
    """Returns indented JSON for a tool's --json result; NaN is refused, as JSON has none."""
    return json.dumps(content, indent=2, allow_nan=False)


def _report(program: str, error: object, code: int) -> int:
    sys.stderr.write(printable(f"{program}: {' '.join(str(error).split())}") + "\n")
    return code


def _start_logging() -> None:
    # The tools' own flags are parsed; absl warns about its registry, which they do not use.
    flags.FLAGS.mark_as_parsed()
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.set_stderrthreshold("info")
    logging.get_absl_handler().setFormatter(_OneLine())


class _OneLine(python_logging.Formatter):
    """Messages as one line each, whatever the names of files in them; tracebacks as they are."""

    def formatMessage(self, record: python_logging.LogRecord) -> str:  # noqa: N802 - its name
        return printable(record.message)


def _flags_help(flag_values: flags.FlagValues) -> str:
    lines = []
    for name in sorted(flag_values):
        flag = flag_values[name]
        if name == flag.name:
            default = f" (default: {flag.default_as_str})" if flag.default is not None else ""
            lines.append(f"  --{name}: {flag.help}{default}")
    return "\n".join(lines)
