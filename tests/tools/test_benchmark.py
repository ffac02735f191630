from __future__ import annotations

import importlib
import json

import pytest

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
    "input": ["image_sizes=[16]", "height=30", "width=40", "num_images=4", "batch_size=2"],
}


@pytest.mark.parametrize("name", ["extract", "search", "asmk", "local", "input"])
def test_benchmarks_print_tables(name, capsys):
    argv = ["delf_tf", "benchmark", name, *(f"--set={item}" for item in SIZES[name])]
    assert main.main(argv) == 0
    assert len(capsys.readouterr().out.splitlines()) > 2


def test_output_dir_keeps_figures_and_plots(tmp_path, capsys):
    sizes = [f"--set={item}" for item in SIZES["verify"]]
    argv = ["delf_tf", "benchmark", "verify", *sizes, f"--output_dir={tmp_path}"]
    assert main.main([*argv, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "verify.json").read_text()) == printed
    assert (tmp_path / "verify.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["search", "local"])
def test_benchmarks_print_json(name, capsys):
    argv = ["delf_tf", "benchmark", name, *(f"--set={item}" for item in SIZES[name])]
    assert main.main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_sizes_name_arguments_of_every_benchmark():
    assert set(SIZES) == set(benchmark.BENCHMARKS)
    for name, (module, function) in benchmark.BENCHMARKS.items():
        run = getattr(importlib.import_module(module), function)
        assert len(benchmark.parse_options(run, SIZES[name])) == len(SIZES[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "must be named"),
        (["extrct"], "must be named"),
        (["search", "--set=num_imges=3"], "Did you mean 'num_images'"),
        (["search", "--set=dim"], "NAME=VALUE"),
        (["pairs"], "--set=directory=VALUE"),
    ],
)
def test_usage_errors(arguments, message, capsys):
    assert main.main(["delf_tf", "benchmark", *arguments]) == 2
    assert message in capsys.readouterr().err
