"""Configs: protobuf text in, checked messages out, overrides, friendly errors, fingerprints."""

from __future__ import annotations

import importlib.resources
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import descriptor as protobuf_descriptor
from google.protobuf import message as protobuf_message
from google.protobuf import text_format

from delf_tf import artifacts
from delf_tf.checks import UsageError, did_you_mean, invalid
from delf_tf.protos import comparison_pb2, experiment_pb2

MAX_CONFIG_BYTES = 1 << 20
_MAX_ERROR = 300

# The folder of shipped comparisons, below that of experiments.
_COMPARISONS = "comparisons"
_PIPELINE_NAME = re.compile(r"^[A-Za-z0-9][\w .+-]{0,63}$", re.ASCII)

M = TypeVar("M", bound=protobuf_message.Message)

_NO_FIELD = re.compile(r'Message type "(?P<type>[\w.]+)" has no field named "(?P<field>\w+)"')
# What names code by a dotted path; these networks of Keras are none: "delg_keras:EfficientNetB0".
_NAMES_OF_CODE = ("ModelConfig.name", "IndexConfig.type")
_KERAS_NETWORK = re.compile(r"(gem|delf|delg|dolg|superfeatures)_keras:.*")
_SCALAR = re.compile(r"^[\w.+-]+$")
_POSITION = re.compile(r"^(?P<line>\d+):(?P<column>\d+) : ")


class ConfigError(UsageError):
    """A config that cannot be read; its message is one line and names the line of the file."""


def load_experiment(
    path: str, overrides: Iterable[str] = (), *, allow_imports: Sequence[str] = ()
) -> experiment_pb2.Experiment:
    """Reads an experiment: a .textproto file, or the name of one that ships with delf_tf.

    Args:
      path: file path; if there is no such file, a name in `list_configs()`, with or without the
        folder `configs/` and the ending `.textproto`.
      overrides: "path.to.field=value" items applied after the file, in order.
      allow_imports: packages that the config may name code of, see `check_imports`.

    Returns:
      The message; relative paths in it stay as written.

    Raises:
      ConfigError: no such config, unknown field, wrong type, not UTF-8, over 1 MiB, or code of a
        package that is not allowed.
    """
    message = parse(_read(path), experiment_pb2.Experiment, source=path)
    for override in overrides:
        apply_override(message, override)
    check_imports(message, allow_imports)
    return message


def check_imports(message: protobuf_message.Message, allow_imports: Sequence[str]) -> None:
    """Refuses a config that names code ("my_package.module:Thing") unless it is allowed.

    A config may come from anyone, so its user allows the packages. Nothing is imported here.

    Args:
      message: of any type; sections are looked into.
      allow_imports: packages, such as "my_package"; modules below them are allowed, too.

    Raises:
      ConfigError: it names code of another package.
    """
    for name in _names_of_code(message):
        module = name.partition(":")[0]
        if not any(f"{module}.".startswith(f"{package}.") for package in allow_imports):
            raise invalid(
                "A config may name code only of packages that are allowed.",
                hint=f"If you trust it: --allow_import={module.partition('.')[0]}.",
                error=ConfigError,
                name=name,
            )


def _names_of_code(message: protobuf_message.Message) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.message_type is not None:
            for section in value if _is_repeated(field) else [value]:
                yield from _names_of_code(section)
            continue
        may_name = f"{message.DESCRIPTOR.name}.{field.name}" in _NAMES_OF_CODE
        if may_name and ":" in value and not _KERAS_NETWORK.fullmatch(value):
            yield value


def load_comparison(path: str) -> comparison_pb2.Comparison:
    """Reads a comparison: a .textproto file, or the name of one in `list_comparisons()`.

    Returns:
      The message; relative paths in it stay as written.

    Raises:
      ConfigError: see `load_experiment`; or no pipelines, or two of one name.
    """
    message = parse(_read(path, _COMPARISONS), comparison_pb2.Comparison, source=path)
    names = [one.name for one in message.pipelines]
    for name in names:
        if not _PIPELINE_NAME.match(name):
            raise invalid(
                "A pipeline's name must be of letters, digits, space and . _ + - alone.",
                error=ConfigError,
                name=name,
            )
    if not names or len(set(names)) < len(names):
        raise invalid(
            "A comparison must have pipelines of different names.", error=ConfigError, names=names
        )
    return message


def list_configs() -> list[str]:
    """Returns the names of the experiments that ship with delf_tf."""
    return _shipped("")


def list_comparisons() -> list[str]:
    """Returns the names of the comparisons that ship with delf_tf."""
    return _shipped(_COMPARISONS)


def parse(text: str, message_type: type[M], *, source: str) -> M:
    """Parses protobuf text into a new `message_type`.

    Args:
      text: protobuf text format.
      message_type: the message's class.
      source: name of the text in errors.

    Raises:
      ConfigError: with line, column and the nearest valid field name.
    """
    message = message_type()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise ConfigError(_one_line(str(error), message_type.DESCRIPTOR, source)) from None
    return message


def apply_override(message: protobuf_message.Message, override: str) -> None:
    """Sets one field from "path.to.field=value"; a repeated field takes "a,b,c" or nothing.

    A section takes nothing, which removes it: "rerank=" leaves one stage.

    Raises:
      ConfigError: not of that form, no such field, or a value of the wrong type.
    """
    path, equals, value = override.partition("=")
    if not equals or not path.strip():
        raise invalid(
            "An override must read path.to.field=value.", error=ConfigError, override=override
        )
    *parents, leaf = path.strip().split(".")
    for name in parents:
        field = _field(message, name, override)
        if field.message_type is None or _is_repeated(field):
            raise invalid(
                f"'{name}' has no fields of its own.", error=ConfigError, override=override
            )
        message = getattr(message, name)
        message.SetInParent()
    field = _field(message, leaf, override)
    if field.message_type is not None and value.strip():
        raise invalid(
            f"'{leaf}' is a section.",
            hint=f"Set one of its fields: {', '.join(field.message_type.fields_by_name)}; or "
            f"'{leaf}=' removes it.",
            error=ConfigError,
            override=override,
        )
    message.ClearField(leaf)
    if field.message_type is not None:
        return
    values = [value] if not _is_repeated(field) else [v for v in value.split(",") if v.strip()]
    for one in values:
        quoted = '"' + text_format.text_encoding.CEscape(one, True) + '"'
        is_string = field.cpp_type == field.CPPTYPE_STRING
        text = quoted if is_string else one.strip()
        try:
            # More than one token would be more than one field.
            if not is_string and not _SCALAR.match(text):
                raise text_format.ParseError(text)
            text_format.Merge(f"{leaf}: {text}", message)
        except text_format.ParseError:
            raise invalid(
                f"'{leaf}' takes {_type_name(field)}.",
                error=ConfigError,
                override=override,
            ) from None


def fingerprint(message: protobuf_message.Message, *more: str) -> str:
    """Returns the fingerprint of a message's content and of the strings in `more`."""
    return artifacts.fingerprint(message.SerializeToString(deterministic=True), *more)


def set_fields(message: protobuf_message.Message) -> dict[str, Any]:
    """Returns the scalar fields that are set, by name: keyword arguments for library code."""
    return {
        field.name: list(value) if _is_repeated(field) else value
        for field, value in message.ListFields()
        if field.message_type is None
    }


def arguments(message: protobuf_message.Message, *functions: Callable[..., Any]) -> dict[str, Any]:
    """Returns keyword arguments for library code: the scalar fields that are set, and defaults.

    Args:
      message: a section of a config.
      *functions: whose own defaults count for the fields that are not set; the first that has one.
    """
    defaults = {
        name: parameter.default
        for function in reversed(functions)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not parameter.empty
    }
    names = {field.name for field in message.DESCRIPTOR.fields}
    return {
        **{name: value for name, value in defaults.items() if name in names},
        **set_fields(message),
    }


def _shipped(subfolder: str) -> list[str]:
    folder = importlib.resources.files("delf_tf.configs") / subfolder
    return sorted(
        entry.name[: -len(".textproto")]
        for entry in folder.iterdir()
        if entry.name.endswith(".textproto")
    )


def _read(path: str, subfolder: str = "") -> str:
    file = Path(path)
    try:
        if file.is_file():
            if file.stat().st_size > MAX_CONFIG_BYTES:
                raise invalid("A config must be at most 1 MiB.", error=ConfigError, config=path)
            return file.read_text(encoding="utf-8")
        shipped = _shipped(subfolder)
        name = file.name[: -len(".textproto")] if file.name.endswith(".textproto") else file.name
        if name in shipped and file.parent in (Path(), Path("configs", subfolder)):
            folder = importlib.resources.files("delf_tf.configs") / subfolder
            return (folder / f"{name}.textproto").read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise invalid("A config must be UTF-8 text.", error=ConfigError, config=path) from None
    hint = did_you_mean(name, shipped)
    raise invalid(
        "config must be a file or the name of a shipped config.",
        hint=f"{hint} Shipped: {', '.join(shipped)}.".strip(),
        error=ConfigError,
        config=path,
    )


def _one_line(error: str, root: protobuf_descriptor.Descriptor, source: str) -> str:
    position = _POSITION.match(error)
    where = f"{source}:{position['line']}:{position['column']}" if position else source
    # The parser quotes the whole line of the file.
    text = _POSITION.sub("", error).replace("\n", " ")[:_MAX_ERROR]
    missing = _NO_FIELD.search(text)
    if not missing:
        hint = " A section is written NAME { field: value }." if 'Expected "{"' in text else ""
        return f"{where}: {text}{hint}"
    names = _message_fields(root, missing["type"])
    section = missing["type"].rpartition(".")[2]
    return f"{where}: {section} has no field '{missing['field']}'. " + _nearest_field(
        section, missing["field"], names
    )


def _nearest_field(section: str, name: str, names: Iterable[str]) -> str:
    """Returns the sentence that names the field that was meant, if one is near."""
    if section == "TrainingConfig":
        now = name.replace("_loss_weight", "_weight")
        now = now.removeprefix("arcface_").removeprefix("step_")
        for part in experiment_pb2.TrainingConfig.DESCRIPTOR.fields:
            if now in part.message_type.fields_by_name:
                return f"It is now training.{part.name}.{now}."
    return did_you_mean(name, names) or f"Valid: {', '.join(names)}."


def _message_fields(root: protobuf_descriptor.Descriptor, full_name: str) -> list[str]:
    pending, seen = [root], set()
    while pending:
        current = pending.pop()
        if current.full_name == full_name:
            return list(current.fields_by_name)
        seen.add(current.full_name)
        below = [f.message_type for f in current.fields if f.message_type is not None]
        pending += [d for d in below if d.full_name not in seen]
    return []


def _field(
    message: protobuf_message.Message, name: str, override: str
) -> protobuf_descriptor.FieldDescriptor:
    fields = message.DESCRIPTOR.fields_by_name
    if name not in fields:
        raise invalid(
            f"{message.DESCRIPTOR.name} has no field '{name}'.",
            hint=_nearest_field(message.DESCRIPTOR.name, name, fields),
            error=ConfigError,
            override=override,
        )
    return fields[name]


def _is_repeated(field: protobuf_descriptor.FieldDescriptor) -> bool:
    # `label` warns in new runtimes and `is_repeated` is missing in old ones.
    is_repeated = getattr(field, "is_repeated", None)
    return field.label == field.LABEL_REPEATED if is_repeated is None else bool(is_repeated)


def _type_name(field: protobuf_descriptor.FieldDescriptor) -> str:
    if field.cpp_type == field.CPPTYPE_BOOL:
        return "true or false"
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return "a number"
    return "a whole number"
