"""Tables as text for a terminal; light to import."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of strings; the first column names its row."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_text(self) -> str:
        """Returns the table in aligned columns, for a terminal."""
        rows = [list(self.header), *(list(row) for row in self.rows)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.header))]
        aligned = [
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([aligned[0], "-" * max(map(len, aligned)), *aligned[1:]])


def of_result(result: Mapping[str, Any]) -> list[Table]:
    """Returns a table for each list of records in a result; without any, one of its values."""
    found = [of_records(value) for value in result.values() if _is_table(value)]
    return found or [of_records([{"": key, "value": value} for key, value in result.items()])]


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def of_records(records: Sequence[Mapping[str, Any]]) -> Table:
    """Returns a row a record; the columns are all of their keys."""
    header = list(dict.fromkeys(key for record in records for key in record))
    return Table("", header, [[_cell(one.get(key)) for key in header] for one in records])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def facts(result: Mapping[str, Any]) -> str:
    """Returns what of a result is no table, a line a fact: sizes, machine, versions."""
    found = {
        key: value
        for key, value in result.items()
        if not _is_table(value) and not (isinstance(value, dict) and "rows" in value)
    }
    return "\n".join(f"{key}: {value}" for key, value in found.items())
