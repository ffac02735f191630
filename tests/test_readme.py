"""The README's commands, executed as they stand; only the demo before them is a small one."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

SMALL_DEMO = ["--num_landmarks=3", "--num_views=5", "--num_distractors=2"]
SMALL_TRAINING = [
    "--config=compact_demo",
    "--set=training.run.num_steps=2",
    "--set=training.input.batch_size=4",
]


def _blocks(repository, language):
    text = (repository / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def _commands(repository):
    joined = "\n".join(_blocks(repository, "sh")).replace("\\\n", " ")
    return [shlex.split(line) for line in joined.splitlines() if line.strip()]


def _run(argv, cwd):
    """Runs a command; `delf_tf` is that of the environment that runs the tests."""
    if argv[0] == "delf_tf":
        argv = [str(Path(sys.executable).with_name("delf_tf")), *argv[1:]]
    done = subprocess.run(argv, check=False, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder where `delf_tf demo` ran, in small."""
    cwd = tmp_path_factory.mktemp("readme")
    printed = _run(["delf_tf", "demo", "--output_dir=demo_output", *SMALL_DEMO], cwd)
    return cwd, printed


def test_the_demo_makes_what_the_readme_says(demo):
    cwd, printed = demo
    assert "single-stage" in printed
    assert "two-stage" in printed
    metrics = json.loads((cwd / "demo_output" / "metrics.json").read_text())
    assert metrics["two_stage"]["num_queries"] == 15
    assert (cwd / "demo_output" / "report.html").stat().st_size > 10_000


def test_the_demo_run_again_goes_on_and_takes_photographs(demo):
    cwd, _ = demo
    before = (cwd / "demo_output" / "ranking.npz").read_bytes()
    yours = "--photos_dir=demo_output/photos/images"
    _run(["delf_tf", "demo", "--output_dir=demo_output", *SMALL_DEMO, yours], cwd)
    assert (cwd / "demo_output" / "ranking.npz").read_bytes() == before
    assert (cwd / "demo_output" / "your_photos" / "report.html").is_file()


@pytest.mark.slow
def test_the_training_demo_trains_and_goes_on(tmp_path):
    argv = ["delf_tf", "demo", "--output_dir=trained", *SMALL_DEMO, *SMALL_TRAINING]
    _run(argv, tmp_path)
    weights = (tmp_path / "trained" / "train" / "weights.npz").read_bytes()
    _run(argv, tmp_path)
    assert (tmp_path / "trained" / "train" / "weights.npz").read_bytes() == weights


def test_the_commands_on_photographs_work(demo, repository):
    cwd, _ = demo
    commands = [argv for argv in _commands(repository) if argv[0] == "delf_tf"]
    assert [argv[1] for argv in commands] == ["retrieve", "match"]
    for argv in commands:
        _run(argv, cwd)
    assert (cwd / "retrieved" / "report.html").is_file()
    assert (cwd / "matches.png").is_file()


def test_make_runs_the_demo_and_the_tests(repository):
    targets = [argv[1] for argv in _commands(repository) if argv[0] == "make"]
    assert targets == ["demo", "test", "demo-train"]
    environment = {**os.environ, "MAKEFLAGS": ""}
    recipes = [
        subprocess.run(
            ["make", "--dry-run", target],
            check=True,
            capture_output=True,
            text=True,
            cwd=repository,
            env=environment,
        ).stdout
        for target in targets
    ]
    assert "delf_tf demo --output_dir=demo_output" in recipes[0]
    assert "-m pytest" in recipes[1]
    assert "delf_tf demo --config=compact_demo" in recipes[2]


def test_photographs_are_searched_in_five_lines_of_python(demo, repository, monkeypatch):
    cwd, _ = demo
    monkeypatch.chdir(cwd)
    example, _ = _blocks(repository, "python")
    assert len(example.splitlines()) <= 8
    names: dict = {}
    exec(example, names)
    assert names["found"][0].id.startswith("landmark_0000")
    assert names["found"][0].num_inliers > 0
    assert (cwd / "found.png").stat().st_size > 10_000
    # The tool extracted the same bytes.
    for file in (cwd / "demo_output" / "database").glob("*.safetensors"):
        assert file.read_bytes() == (cwd / "features" / "database" / file.name).read_bytes()


def test_the_networks_example_runs_and_its_shapes_are_true(repository):
    _, example = _blocks(repository, "python")
    names: dict = {}
    exec(example, names)
    outputs = names["outputs"]
    assert outputs["global"].shape == (1, 512)
    assert outputs["features"].shape == (1, 14, 14, 128)
    assert outputs["scores"].shape == (1, 14, 14)


@pytest.mark.slow
def test_the_real_demos_retrieve_what_the_readme_prints(repository, tmp_path):
    text = (repository / "README.md").read_text(encoding="utf-8")
    _run(["delf_tf", "demo", "--output_dir=demo_output"], tmp_path)
    metrics = json.loads((tmp_path / "demo_output" / "metrics.json").read_text())
    for stage in ("single", "two"):
        printed = re.search(rf"^{stage}-stage +(\S+) +(\S+) +(\S+) ", text, flags=re.M).groups()
        block = metrics[f"{stage}_stage"]
        figures = [block["mAP"], block["mAP_by_place"], block["P@1"]]
        # Processors with and without bfloat16 compute descriptors of other precision.
        assert figures == pytest.approx([float(one) for one in printed], abs=0.02)
    _run(["delf_tf", "demo", "--config=compact_demo", "--output_dir=trained"], tmp_path)
    metrics = json.loads((tmp_path / "trained" / "metrics.json").read_text())
    single, two = re.search(r"(0\.\d+) single-stage and (0\.\d+) two-stage", text).groups()
    # It trains for at most three minutes: a slower machine takes fewer steps.
    assert metrics["single_stage"]["mAP"] == pytest.approx(float(single), abs=0.1)
    assert metrics["two_stage"]["mAP"] == pytest.approx(float(two), abs=0.1)
