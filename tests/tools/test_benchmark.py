from __future__ import annotations

import importlib
import json

import pytest

from delf_tf import options
from delf_tf.benchmarks import real_pairs
from delf_tf.tools import benchmark, main

SIZES = {
    "extract": [
        "model=delg_mobilenet_v2",
        "height=32",
        "width=32",
        'settings=["global"]',
        'contenders=["float32"]',
        "num_images=1",
        "rounds=1",
    ],
    "verify": ["num_pairs=2", "repeats=1", 'contenders=["ours"]'],
    "pairs": ["directory=evd", "num_features=800"],
    "photos": ["directory=photos", "labels=labels.csv"],
    "search": ["num_images=300", "dim=8", "num_queries=5", "repeats=1", 'types=["exact"]'],
    "asmk": ["num_images=3", "num_features=8", "num_words=64", "dim=8", "num_queries=1"],
    "local": ["num_images=3", "num_features=64", "dim=8", "factory=IVF4,PQ2x4", "num_compared=4"],
    "scale": ["sizes=[64]", "num_queries=2", "num_features=9", "directory=here", "seed=1"],
    "input": ["image_sizes=[16]", "height=30", "width=40", "num_images=4", "batch_size=2"],
}


@pytest.mark.parametrize("name", ["extract", "search", "asmk", "local", "input"])
def test_benchmarks_print_tables(name, capsys):
    argv = ["delf_tf", "benchmark", name, *_sets(SIZES[name])]
    assert main.main(argv) == 0
    assert len(capsys.readouterr().out.splitlines()) > 2


def test_output_dir_keeps_figures_and_plots(tmp_path, capsys):
    argv = ["delf_tf", "benchmark", "verify", *_sets(SIZES["verify"]), f"--output_dir={tmp_path}"]
    assert main.main([*argv, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "verify.json").read_text()) == printed
    assert (tmp_path / "verify.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["search", "local"])
def test_benchmarks_print_json(name, capsys):
    argv = ["delf_tf", "benchmark", name, *_sets(SIZES[name])]
    assert main.main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_sizes_name_arguments_of_every_benchmark():
    assert set(SIZES) == set(benchmark.BENCHMARKS)
    for name, (module, function) in benchmark.BENCHMARKS.items():
        run = getattr(importlib.import_module(module), function)
        assert len(options.parse_options(run, SIZES[name])) == len(SIZES[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "must be named"),
        (["extrct"], "must be named"),
        (["search", "--set=num_imges=3"], "Did you mean 'num_images'"),
        (["search", "--set=dim"], "NAME=VALUE"),
        (["pairs"], "--set=directory=VALUE"),
        (["verify", '--set=settings=[{"num_features": 2.5}]'], "an object with num_features"),
        (["verify", '--set=settings=[{"features": 9}]'], "settings must be a list of: an object"),
        (["verify", "--set=settings=" + "[" * 100_000], "settings must be a list of"),
        (["verify", "--set=threshold_px=NaN"], "threshold_px must be a number"),
        (["search", "--set=num_images=many"], "num_images must be a whole number"),
        (["search", "--set=num_images=true"], "num_images must be a whole number"),
        (["search", "--set=seed=-1"], "seed must be a whole number of 0 or more"),
        (["search", "--set=types=exact"], "types must be a list of: text"),
        (["search", "--set=database=[[1]]"], "--set takes num_images"),
        (["search", "--set=options=1"], "--set takes num_images"),
    ],
)
def test_usage_errors(arguments, message, capsys):
    assert main.main(["delf_tf", "benchmark", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_settings_are_objects_of_their_fields(capsys):
    settings = '[{"num_features": 64, "true_fraction": 1}, {"num_features": 80, "dim": 8}]'
    sizes = ["num_pairs=2", "repeats=1", 'contenders=["ours"]', f"settings={settings}"]
    assert main.main(["delf_tf", "benchmark", "verify", "--json", *_sets(sizes)]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    shown = {(row["num_features"], row["true_fraction"], row["dim"]) for row in rows}
    assert shown == {(64, 1.0, 40), (80, 0.15, 8)}


def test_text_may_look_like_a_number():
    assert options.parse_options(real_pairs.run, ["directory=2020"]) == {"directory": "2020"}


@pytest.mark.parametrize(
    ("name", "item", "message"),
    [
        ("extract", "num_threads=0", "Counts must be 1 or more"),
        ("verify", 'settings=[{"num_features": 0}]', "at least one true match"),
        ("verify", 'settings=[{"true_fraction": 2}]', "at least one true match"),
        ("verify", 'contenders=["nonsense"]', "contenders must be one of"),
        ("search", "num_queries=0", "Sizes must be 1 or more"),
        ("local", "dim=0", "at least 1"),
    ],
)
def test_values_out_of_range_are_refused(name, item, message, capsys):
    option = item.partition("=")[0]
    sizes = [one for one in SIZES[name] if not one.startswith(f"{option}=")]
    assert main.main(["delf_tf", "benchmark", name, *_sets([*sizes, item])]) == 1
    assert message in capsys.readouterr().err


def _sets(items):
    return [f"--set={item}" for item in items]
