from __future__ import annotations

import json
import shutil

import pytest

from delf_tf import options
from delf_tf.benchmarks import every, real_pairs
from delf_tf.tools import main


def _sizes(name):
    """Returns the quick settings of a benchmark as they are typed."""
    return [f"{one}={json.dumps(value)}" for one, value in every.BENCHMARKS[name].quick.items()]


@pytest.mark.parametrize("name", ["extract", "search", "asmk", "local", "input"])
def test_benchmarks_print_tables(name, capsys):
    argv = ["delf_tf", "benchmark", name, *_sets(_sizes(name))]
    assert main.main(argv) == 0
    assert len(capsys.readouterr().out.splitlines()) > 2


def test_output_dir_keeps_figures_and_plots(tmp_path, capsys):
    argv = ["delf_tf", "benchmark", "verify", *_sets(_sizes("verify")), f"--output_dir={tmp_path}"]
    assert main.main([*argv, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "verify.json").read_text()) == printed
    assert (tmp_path / "verify.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["search", "local"])
def test_benchmarks_print_json(name, capsys):
    argv = ["delf_tf", "benchmark", name, *_sets(_sizes(name))]
    assert main.main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_quick_settings_name_arguments_of_every_benchmark():
    for name, (_, _, _, quick) in every.BENCHMARKS.items():
        needed = {"pairs": ["directory=a"], "photos": ["directory=a", "labels=b"]}.get(name, [])
        typed = options.parse_options(every.function(name), [*_sizes(name), *needed])
        assert {one: typed[one] for one in quick} == quick


def test_all_go_on_after_one_that_fails(tmp_path, capsys):
    folder, other = tmp_path / "out", tmp_path / "other"
    argv = ["delf_tf", "benchmark", "all", "--set=quick=true"]
    assert main.main(argv) == 2
    assert "--output_dir must be given" in capsys.readouterr().err
    argv.append(f"--output_dir={folder}")
    names = '--set=names=["pairs", "photos", "search", "local"]'
    assert main.main([*argv, f'--set=compare_with=["{other}"]']) == 1
    assert "must hold results" in capsys.readouterr().err
    assert main.main([*argv, names, f"--set=pairs={tmp_path / 'none'}", "--json"]) == 1
    rows = {row["benchmark"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["pairs"]["status"].startswith("failed: The folder must hold NAME.txt")
    assert rows["photos"]["status"] == "left out: it needs --set=photos=… and --set=labels=…"
    assert rows["search"]["status"] == rows["local"]["status"] == "done"
    assert json.loads((folder / "search.json").read_text())["machine"]["num_cpus"] >= 1
    shutil.copytree(folder, other)
    argv += ['--set=names=["local"]', f'--set=compare_with=["{other}"]']
    assert main.main(argv) == 0
    page = (folder / "benchmarks.html").read_text()
    assert page.count("<table>") == 4 and "other: ms" in page


def test_a_peer_that_is_missing_is_told(monkeypatch, capsys):
    row = every.BENCHMARKS["search"]._replace(peers=["no_such_module", "numpy"])
    monkeypatch.setitem(every.BENCHMARKS, "search", row)
    argv = ["delf_tf", "benchmark", "search", *_sets(_sizes("search"))]
    assert main.main(argv) == 0
    assert "peers_not_installed: ['no_such_module']" in capsys.readouterr().out


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
    sizes = [one for one in _sizes(name) if not one.startswith(f"{option}=")]
    assert main.main(["delf_tf", "benchmark", name, *_sets([*sizes, item])]) == 1
    assert message in capsys.readouterr().err


def _sets(items):
    return [f"--set={item}" for item in items]
