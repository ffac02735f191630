"""The page of `benchmark all`: what each contender took, on this machine and on others.

It reads results as `delf_tf benchmark` writes them: a record's labels come first, then its
contender, then figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from delf_tf import artifacts
from delf_tf.checks import require
from delf_tf.report import benchmark_plots, html
from delf_tf.report.tables import Table, of_records

_CONTENDERS = ("contender", "type", "solver", "precision")
_MILLISECONDS = {"ms_per_image": 1, "ms_per_query": 1, "ms": 1, "cpu_seconds": 1000}
_QUALITIES = ("recall", "recall10@10", "words_recall", "cosine", "auc", "auc_20px")
_QUALITIES += ("precision_at_10",)
# More lines than these are no plot to read.
_MAX_BARS = 24

Key = tuple[str, str]
# By benchmark, its result.
Results = Mapping[str, Mapping[str, Any]]


class Figure(NamedTuple):
    """What one contender took in one setting.

    Attributes:
      ms: median milliseconds, or None.
      relative: over those of the first contender of the setting, or None.
      quality: name and value of what it reached, or "".
    """

    ms: float | None
    relative: float | None
    quality: str


_NOTHING = Figure(None, None, "")


def read_results(folder: artifacts.StrPath, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns the results in a folder by benchmark.

    Raises:
      InputError: no result there, or a file that is none.
    """
    results = {}
    for name in names:
        path = Path(folder) / f"{name}.json"
        if path.is_file():
            result = artifacts.read_json(path, "A result of `delf_tf benchmark`")
            fits = isinstance(result, dict) and isinstance(result.get("machine"), dict)
            require(fits, "A result must be what `delf_tf benchmark` wrote.", path=path)
            results[name] = result
    require(
        bool(results),
        "The folder must hold results of `delf_tf benchmark`.",
        hint="Give what --output_dir was.",
        folder=Path(folder),
    )
    return results


def write(
    path: artifacts.StrPath, machines: Mapping[str, Results], runs: Sequence[Mapping[str, Any]]
) -> Path:
    """Writes the page.

    Args:
      path: of the .html file.
      machines: by name, all results; the first is this machine.
      runs: a record a benchmark, how the run on this machine went.
    """
    here = next(iter(machines.values()))
    comparisons = {
        name: {machine: figures(results.get(name, {})) for machine, results in machines.items()}
        for name in dict.fromkeys(one for results in machines.values() for one in results)
    }
    return html.write_report(
        path,
        title="Benchmarks",
        summary=[
            "Medians of one run. “/ first” is the time over that of the setting's first contender "
            "in the same run: below 1 is faster. It says more than milliseconds where other "
            "programs ran beside. Of scale, it is the time of processors."
        ],
        tables=[
            _machines(machines),
            dataclasses.replace(of_records(runs), caption="This run"),
            *(_comparison(name, rows) for name, rows in comparisons.items()),
        ],
        plots=list(_plots(here, comparisons)),
    )


def figures(result: Mapping[str, Any]) -> dict[Key, Figure]:
    """Returns by setting and contender what a benchmark's result tells."""
    found: dict[Key, Figure] = {}
    first: dict[str, float] = {}
    for setting, contender, record in _records(result):
        ms = next(
            (
                scale * record[key]
                for key, scale in _MILLISECONDS.items()
                if _number_at(record, key)
            ),
            None,
        )
        relative = None if ms is None else ms / (first.setdefault(setting, ms) or ms or 1)
        known = [name for name in _QUALITIES if _number_at(record, name)]
        quality = f"{known[0].replace('_', ' ')} {record[known[0]]:.3f}" if known else ""
        found[setting, contender] = Figure(ms, relative, quality)
    return found


def _records(result: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, dict]]:
    """Yields setting, contender and record of all lists of records, and of plain milliseconds."""
    for key, value in result.items():
        nested = [value] if isinstance(value, dict) and "rows" in value else value
        if key == "growth" or not _is_records(nested):
            continue
        for record in nested:
            if _is_records(record.get("rows")):
                name = record.get("name", "" if key == "rows" else key)
                yield from _records({"rows": record["rows"]}, name)
            else:
                yield _labelled(record, prefix)
    for key, value in result.items():
        if key.endswith("_ms") and _number_at(result, key):
            recall = {name: result[name] for name in _QUALITIES if name in result}
            mine = {} if key.startswith(("faiss", "exact")) else recall
            yield prefix, key.removesuffix("_ms").replace("_", " "), {"ms": value, **mine}


def _labelled(record: dict[str, Any], prefix: str) -> tuple[str, str, dict]:
    names = list(record)
    place = next((names.index(one) for one in _CONTENDERS if one in record), None)
    if place is None:
        stop = next((row for row, one in enumerate(names) if isinstance(record[one], float)), 0)
        return _words(prefix, [record[one] for one in names[:stop]]), "", record
    labels = [f"{one} {record[one]}" for one in names[:place] if one != "stage"]
    labels += [record["stage"]] if "stage" in names[:place] else []
    return _words(prefix, labels), str(record[names[place]]), record


def _words(prefix: str, labels: Sequence[Any]) -> str:
    return ", ".join(str(one).replace("_", " ") for one in (prefix, *labels) if one != "")


def _number_at(record: Mapping[str, Any], name: str) -> bool:
    return isinstance(record.get(name), (int, float))


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _comparison(name: str, machines: Mapping[str, Mapping[Key, Figure]]) -> Table:
    keys = list(dict.fromkeys(key for rows in machines.values() for key in rows))
    several = len(keys) > len({setting for setting, _ in keys})
    header = ["setting and contender" if several else "setting"]
    rows = [[_label(key)] for key in keys]
    for machine, found in machines.items():
        header += [f"{machine}: ms", "/ first"] if several else [f"{machine}: ms"]
        for key, row in zip(keys, rows):
            ms, relative, _ = found.get(key, _NOTHING)
            row.extend([_number(ms), _number(relative)] if several else [_number(ms)])
    qualities = [
        next((one[key].quality for one in machines.values() if key in one), "") for key in keys
    ]
    if any(qualities):
        header.append("quality")
        rows = [[*row, quality] for row, quality in zip(rows, qualities)]
    return Table(name, header, rows)


def _label(key: Key) -> str:
    return " · ".join(filter(None, key))


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _machines(machines: Mapping[str, Results]) -> Table:
    columns = []
    for results in machines.values():
        facts = max((one["machine"] for one in results.values()), key=len)
        shown = {
            "processor": facts.get("processor", ""),
            "CPUs": facts.get("num_cpus", ""),
            "accelerators": ", ".join(facts.get("accelerators", [])) or "none",
            "load": ", ".join(f"{one:.1f}" for one in facts.get("load_average", [])),
        }
        columns.append({**shown, **facts.get("versions", {})})
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(str(column.get(name, "")) for column in columns)] for name in names]
    return Table("Machines", ["", *machines], rows)


def _plots(
    here: Results, comparisons: Mapping[str, Mapping[str, Mapping[Key, Figure]]]
) -> Iterator[html.Picture]:
    for name, draw in benchmark_plots.PLOTS.items():
        if name in here:
            yield html.plot(name, draw(here[name]["rows"]), f"Plot of the benchmark {name}")
    for name, machines in comparisons.items():
        bars = {
            machine: {_label(key): one.ms for key, one in rows.items() if one.ms}
            for machine, rows in machines.items()
        }
        most = max(map(len, bars.values()))
        if name not in benchmark_plots.PLOTS and 2 <= most <= _MAX_BARS:
            yield html.plot(name, benchmark_plots.bars(bars), f"Milliseconds of {name}")
