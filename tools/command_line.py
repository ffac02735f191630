"""What every tool's command line shares: parsing, logging, error lines, exit codes."""

from __future__ import annotations

import inspect
import json
import logging as python_logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from delf_tf import artifacts, config
from delf_tf.checks import InputError, UsageError, printable
from delf_tf.protos import experiment_pb2

if TYPE_CHECKING:
    from delf_tf.features.store import FeatureStore

DONE, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130

_EXTRACTION_FLAGS = ("precision", "backend", "quantized_network", "local_codec")


class Flags(flags.FlagValues):
    """One tool's flags, and what several tools read from them.

    Each tool has its own, so that tools can be imported together: absl's registry for all refuses
    two modules with a flag of the same name.
    """

    def add_text(self, name: str, what: str, default: str | None = None) -> None:
        """Adds a flag of text, such as a path."""
        flags.DEFINE_string(name, default, what, flag_values=self)

    def add_alias(self, name: str, other: str) -> None:
        """Adds a second name of a flag."""
        flags.DEFINE_alias(name, other, flag_values=self)

    def add_list(self, name: str, what: str) -> None:
        """Adds a flag of several words, separated by commas."""
        flags.DEFINE_list(name, [], what, flag_values=self)

    def add_repeated(self, name: str, what: str) -> None:
        """Adds a flag of text that may be given several times."""
        flags.DEFINE_multi_string(name, [], what, flag_values=self)

    def add_choice(
        self, name: str, choices: Iterable[str], what: str, default: str | None = None
    ) -> None:
        """Adds a flag that takes one of several words."""
        flags.DEFINE_enum(name, default, list(choices), what, flag_values=self)

    def add_switch(self, name: str, what: str, default: bool | None = False) -> None:
        """Adds a flag that is given or not."""
        flags.DEFINE_boolean(name, default, what, flag_values=self)

    def add_count(
        self,
        name: str,
        what: str,
        default: int | None = None,
        *,
        least: int | None = 1,
        most: int | None = None,
    ) -> None:
        """Adds a flag of a whole number in `least`..`most`; others are usage errors."""
        flags.DEFINE_integer(
            name, default, what, lower_bound=least, upper_bound=most, flag_values=self
        )

    def add_number(
        self,
        name: str,
        what: str,
        default: float | None = None,
        *,
        least: float | None = None,
        most: float | None = None,
    ) -> None:
        """Adds a flag of a number in `least`..`most`; others are usage errors."""
        flags.DEFINE_float(
            name, default, what, lower_bound=least, upper_bound=most, flag_values=self
        )

    def add_config(
        self, default: str | None = None, *, weights: bool = True, extraction: bool = False
    ) -> None:
        """Adds --config and --set; --weights; the flags of how features are extracted."""
        self.add_text(
            "config", "experiment: a .textproto file, or the name of a shipped config", default
        )
        self.add_repeated("set", "override of a config field, path.to.field=value")
        self.add_import()
        if weights:
            self.add_text(
                "weights",
                "weights .npz or preset name, instead of the config's; or a folder with a "
                "SavedModel, which is a program: only from whom you trust",
            )
        if extraction:
            self.add_choice(
                "precision",
                ["auto", "float32", "bfloat16", "int8"],
                "numeric precision of inference; overrides the config's; auto: bfloat16 where the "
                "processor multiplies it in hardware; int8: with OpenVINO and --quantized_network",
            )
            self.add_choice(
                "backend",
                ["auto", "tensorflow", "openvino"],
                "engine of inference; overrides the config's; auto: OpenVINO where it is installed "
                "and the machine has no accelerator",
            )
            self.add_text(
                "quantized_network", "folder that `export --images_dir` wrote, for --precision=int8"
            )
            self.add_text("local_codec", "storage of local features: float32, float16 or int8")

    def add_import(self) -> None:
        """Adds --allow_import."""
        self.add_repeated(
            "allow_import",
            "package whose code a config may name (my_package.module:Thing) and so run",
        )

    def add_beam(self) -> None:
        """Adds --beam."""
        self.add_repeated(
            "beam", "make all shards by Apache Beam: one of its flags, e.g. --runner=FlinkRunner"
        )

    def add_max_failed(self, default: float = 0.5) -> None:
        """Adds --max_failed_fraction."""
        self.add_number(
            "max_failed_fraction",
            "exit with 1 if a larger fraction of the images fails",
            default,
            least=0,
            most=1,
        )

    def pick(self, *names: str) -> dict[str, Any]:
        """Returns the values of some flags by name."""
        return {name: self[name].value for name in names}

    def require(self, *names: str) -> list[Any]:
        """Returns the values of flags that must be given.

        Raises:
          UsageError: naming those that are missing.
        """
        missing = [f"--{name}" for name in names if self[name].value in (None, "", [])]
        if missing:
            named = ", ".join(missing[:-1]) + " and " * (len(missing) > 1) + missing[-1]
            raise UsageError(f"{named} must be given; see --help.")
        return [self[name].value for name in names]

    def read_config(self, *, optional: bool = False) -> experiment_pb2.Experiment:
        """Reads the experiment that the flags of `add_config` describe.

        Args:
          optional: without --config, the overrides of all defaults.

        Raises:
          UsageError: no --config, or a config or an override that cannot be understood.
        """
        if self.config:
            message = config.load_experiment(self.config, self.set, allow_imports=self.allow_import)
        elif optional:
            message = experiment_pb2.Experiment()
            for override in self.set:
                config.apply_override(message, override)
            config.check_imports(message, self.allow_import)
        else:
            raise UsageError(
                f"--config must be given. Shipped: {', '.join(config.list_configs())}."
            )
        self.override(message.model, "weights")
        self.override(message.extraction, *_EXTRACTION_FLAGS)
        return message

    def override(self, section: Any, *names: str) -> None:
        """Sets the fields of a config's section whose flags, if the tool has them, are given."""
        for name in names:
            if name in self and self[name].value not in (None, ""):
                setattr(section, name, self[name].value)


# A tool's work: its flags and the positional arguments in, an exit code (None = 0) out.
Main = Callable[..., "int | None"]


def run(main: Main, flag_values: Flags, argv: Sequence[str] | None = None) -> int:
    """Parses a command line, runs a tool, and turns its errors into one line and an exit code.

    Args:
      main: called with the parsed flags and, if it has a parameter *ARGUMENTS, the positional ones.
      flag_values: the tool's flags; its docstring for --help is that of main's module.
      argv: program name and arguments; sys.argv if None.

    Returns:
      0 done, 1 failed, 2 usage, 130 interrupted.
    """
    argv = list(sys.argv if argv is None else argv)
    # Positional arguments may stand before flags: delf_tf visualize A.jpg --output=maps.png
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
        if positional and inspect.getfullargspec(main).varargs is None:
            raise UsageError(f"This tool takes flags only. Received: {' '.join(positional)!r}.")
        return main(flag_values, *positional) or DONE
    except (flags.Error, UsageError) as error:
        return _report(program, error, USAGE)
    except InputError as error:
        return _report(program, error, FAILED)
    except OSError as error:
        return _report(program, artifacts.refused(error), FAILED)
    except KeyboardInterrupt:
        return _report(program, "interrupted; run the same command again to go on.", INTERRUPTED)


def exit_code(store: FeatureStore, max_failed_fraction: float = 0.5) -> int:
    """Returns 1 if more than the fraction of a store's images failed, else 0."""
    num_failed = len(store.failed())
    if num_failed <= max_failed_fraction * len(store):
        return DONE
    logging.error(
        "%d of %d images failed, more than --max_failed_fraction=%g; see failed_images.csv.",
        num_failed,
        len(store),
        max_failed_fraction,
    )
    return FAILED


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


def _flags_help(flag_values: Flags) -> str:
    lines = []
    for name in sorted(flag_values):
        flag = flag_values[name]
        if name == flag.name:
            default = f" (default: {flag.default_as_str})" if flag.default is not None else ""
            lines.append(f"  --{name}: {flag.help}{default}")
    return "\n".join(lines)
