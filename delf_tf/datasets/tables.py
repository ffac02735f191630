"""CSV files from strangers, read line by line with errors that name the line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from delf_tf.artifacts import StrPath
from delf_tf.checks import did_you_mean, invalid, require

# GLDv2's largest landmark lists some 10,000 images on one line.
_MAX_LINE_CHARACTERS = 1 << 24


def read_header(path: StrPath) -> tuple[str, ...]:
    """Returns the names of a CSV file's columns; none of a file that is empty or no CSV.

    Raises:
      InputError: no such file, not UTF-8.
    """
    path = Path(path)
    require(path.is_file(), "A CSV file must exist.", path=path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(_lines(file, path), strict=True)
        try:
            first = next(filter(None, reader), [])
        except csv.Error:
            return ()
    return tuple(name.strip() for name in first)


def read_rows(
    path: StrPath, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields the named columns of a CSV file, one line at a time.

    The first line is the header; a byte order mark, further columns and blank lines are ignored.

    Args:
      path: UTF-8 text.
      columns: names that the header must have.
      optional: names that it may have; "" is yielded where it has not.

    Yields:
      (line number, counted from 1; the values of `columns`, then of `optional`).

    Raises:
      InputError: no such file, not UTF-8, a column is missing or there twice, a line has another
        number of fields than the header.
    """
    path = Path(path)
    require(path.is_file(), "A CSV file must exist.", path=path)
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_LINE_CHARACTERS))
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(_lines(file, path), strict=True)
        header: list[str] | None = None
        while True:
            try:
                row = next(reader, None)
            except csv.Error as fault:
                raise malformed(path, reader.line_num, str(fault)) from None
            if row is None:
                break
            if not row:
                continue
            if header is None:
                header = [name.strip() for name in row]
                places = _places(header, columns, optional, path)
                continue
            if len(row) != len(header):
                reason = f"{len(row)} fields where the header has {len(header)}"
                raise malformed(path, reader.line_num, reason)
            yield reader.line_num, tuple("" if at is None else row[at] for at in places)
    require(header is not None, "A CSV file must begin with a header.", path=path)


def malformed(path: StrPath, line: int, reason: str) -> Exception:
    """Returns the error for one line of a table, to be raised."""
    return invalid("Every line of a CSV file must be valid.", path=path, line=line, reason=reason)


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        try:
            line = file.readline(_MAX_LINE_CHARACTERS)
        except UnicodeDecodeError as fault:
            raise malformed(path, number, f"not UTF-8: {fault.reason}") from None
        if not line:
            return
        if "\0" in line:
            raise malformed(path, number, "a NUL character")
        if len(line) == _MAX_LINE_CHARACTERS:
            raise malformed(path, number, f"over {_MAX_LINE_CHARACTERS - 1} characters")
        yield line


def _places(
    header: list[str], columns: Sequence[str], optional: Sequence[str], path: Path
) -> list[int | None]:
    for name in [*columns, *(name for name in optional if name in header)]:
        require(
            header.count(name) == 1,
            f"A CSV file must have one column named {name!r}, separated by commas.",
            hint=did_you_mean(name, header),
            path=path,
            header=header,
        )
    return [header.index(name) if name in header else None for name in [*columns, *optional]]
