"""The benchmarks by name, and all of them in one run: JSON, plots and a page."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from delf_tf import artifacts
from delf_tf.artifacts import StrPath
from delf_tf.benchmarks import measuring
from delf_tf.checks import InputError, require_choice


class Benchmark(NamedTuple):
    """Where a benchmark is, and what of it is optional.

    Attributes:
      module: imported when it is run.
      function: takes keyword arguments, returns a JSON-able result.
      peers: modules that contenders need, which are left out where these are not installed.
      quick: arguments of a run that shows that it works, and measures nothing.
    """

    module: str
    function: str
    peers: Sequence[str]
    quick: Mapping[str, Any]


_SMALL = {"model": "delg_mobilenet_v2", "height": 32, "width": 32, "num_images": 1, "rounds": 1}
# A new benchmark is a function and a row here.
BENCHMARKS = {
    "extract": Benchmark(
        "delf_tf.benchmarks.extraction",
        "run",
        ("openvino", "nncf"),
        {**_SMALL, "settings": ("global",), "contenders": ("original", "float32")},
    ),
    "verify": Benchmark(
        "delf_tf.benchmarks.matching",
        "run",
        ("cv2", "skimage", "pydegensac"),
        {"num_pairs": 2, "repeats": 1, "contenders": ("ours",)},
    ),
    "pairs": Benchmark("delf_tf.benchmarks.real_pairs", "run", ("cv2",), {"num_features": 800}),
    "photos": Benchmark(
        "delf_tf.benchmarks.real_pairs", "run_photos", ("cv2",), {"num_features": 200}
    ),
    "search": Benchmark(
        "delf_tf.benchmarks.vector_search",
        "run",
        (),
        {"num_images": 1500, "dim": 16, "num_queries": 20, "repeats": 1},
    ),
    "asmk": Benchmark(
        "delf_tf.benchmarks.local_search",
        "run",
        (),
        {"num_images": 3, "num_features": 8, "num_words": 64, "dim": 8, "num_queries": 1},
    ),
    "local": Benchmark(
        "delf_tf.benchmarks.local_search",
        "run_local",
        (),
        {"num_images": 9, "num_features": 64, "dim": 8, "factory": "IVF4,PQ2x4fs"},
    ),
    "scale": Benchmark(
        "delf_tf.benchmarks.scale",
        "run",
        (),
        {"sizes": (64, 128), "num_queries": 2, "num_features": 9, "global_dim": 16},
    ),
    "input": Benchmark(
        "delf_tf.benchmarks.training_input",
        "run",
        (),
        {"image_sizes": (16,), "height": 30, "width": 40, "num_images": 4, "batch_size": 2},
    ),
}


# What must be given to `run` for those that have no data of their own.
_DATA = {"pairs": ("pairs",), "photos": ("photos", "labels")}


def function(name: str) -> Callable[..., dict[str, Any]]:
    """Returns a benchmark's function by its name in BENCHMARKS."""
    module, attribute, *_ = BENCHMARKS[name]
    return getattr(importlib.import_module(module), attribute)


def measure(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a benchmark; its result also tells the machine, and which peers are not installed.

    Raises:
      InputError: see the benchmark.
    """
    result = function(name)(**arguments)
    missing = [one for one in BENCHMARKS[name].peers if importlib.util.find_spec(one) is None]
    return {**result, "machine": measuring.describe(), "peers_not_installed": missing}


def run(
    output_dir: StrPath,
    *,
    names: Sequence[str] = tuple(BENCHMARKS),
    quick: bool = False,
    compare_with: Sequence[str] = (),
    pairs: str | None = None,
    photos: str | None = None,
    labels: str | None = None,
    scale_sizes: Sequence[int] = (10_000, 100_000),
) -> dict[str, Any]:
    """Runs benchmarks, each in a process of its own; one that fails does not stop the others.

    Args:
      output_dir: receives NAME.json, NAME.png of some, and benchmarks.html.
      names: of BENCHMARKS.
      quick: run each as small as it goes, to see that it works.
      compare_with: output folders of this from other machines or times, shown beside.
      pairs: folder of pairs with homographies, see `real_pairs.run`; None leaves "pairs" out.
      photos: folder of photographs, with `labels`; None leaves "photos" out.
      labels: CSV with columns image and place.
      scale_sizes: of "scale"; a million images takes long and 8 GB of disk.

    Returns:
      {"rows": a row a benchmark with "status" and "seconds", "num_failed", "page": its path}.

    Raises:
      InputError: a name that is none, a folder to compare with that has no results.
    """
    from delf_tf.report import benchmark_page  # noqa: PLC0415 - loads matplotlib

    for name in names:
        require_choice("names", name, BENCHMARKS)
    folder = Path(output_dir)
    others = {one: benchmark_page.read_results(one, BENCHMARKS) for one in compare_with}
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    data = {"pairs": {"directory": pairs}, "photos": {"directory": photos, "labels": labels}}
    given |= {name: data[name] for name in names if name in data}
    if "scale" in given:
        given["scale"] = {"sizes": scale_sizes}
    rows = []
    for name, arguments in given.items():
        if None in arguments.values():
            needed = " and ".join(f"--set={one}=…" for one in _DATA[name])
            rows.append(
                {"benchmark": name, "seconds": 0.0, "status": f"left out: it needs {needed}"}
            )
            continue
        quick_ones = BENCHMARKS[name].quick if quick else {}
        rows.append(_run_one(name, {**arguments, **quick_ones}, folder))
        logging.info("%s", rows[-1])
    here = benchmark_page.read_results(folder, BENCHMARKS)
    page = benchmark_page.write(folder / "benchmarks.html", {"here": here, **others}, rows)
    failed = sum(row["status"].startswith("failed") for row in rows)
    return {"rows": rows, "num_failed": failed, "page": str(page)}


def _run_one(name: str, arguments: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Runs a benchmark and keeps its result; returns how that went."""
    started = time.perf_counter()
    try:
        result = measuring.run_alone(measure, name, arguments)
        keep(name, result, folder)
        missing = ", ".join(result["peers_not_installed"])
        status = "done" + (f", without {missing}: not installed" if missing else "")
    except Exception as error:  # Whatever it is, the others go on.
        what = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        status = f"failed: {what}"
    return {"benchmark": name, "seconds": time.perf_counter() - started, "status": status}


def keep(name: str, result: Mapping[str, Any], folder: Path) -> None:
    """Writes a result as NAME.json and, where there is a plot of it, NAME.png."""
    from delf_tf.report import benchmark_plots, plots  # noqa: PLC0415 - load matplotlib

    artifacts.write_json(folder / f"{name}.json", result)
    if name in benchmark_plots.PLOTS:
        figure = benchmark_plots.PLOTS[name](result["rows"])
        plots.save_figure(figure, folder / f"{name}.png")
