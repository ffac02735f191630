"""The Dockerfile, read and executed without Docker: its steps run on this machine, in a folder."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delf_tf.tools import serve

# Folders of the container that stand below a temporary one here.
_INSIDE = re.compile(r"(?<![\w/.])/(opt/delf_tf|build|cache|data)\b")


@pytest.fixture(scope="module")
def stages(repository):
    """For each stage its instructions, (name, arguments)."""
    text = (repository / "Dockerfile").read_text(encoding="utf-8")
    found: list[list[tuple[str, str]]] = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        assert not line.endswith("\\")
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append((name, arguments))
    return found


def _all(stage, name):
    return [arguments for one, arguments in stage if one == name]


def _health_check(stages, address):
    (told,) = _all(stages[-1], "HEALTHCHECK")
    python, *arguments = json.loads(told[told.index("CMD") + 4 :])
    assert python == "python"
    arguments = [one.replace("http://127.0.0.1:8000", address) for one in arguments]
    return subprocess.run([sys.executable, *arguments], check=False, capture_output=True)


def test_it_runs_as_nobody_in_particular(stages):
    names = [name for name, _ in stages[-1]]
    (user,) = _all(stages[-1], "USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    # Nothing is made after it, and what runs comes after it.
    assert "RUN" not in names[names.index("USER") :]
    assert {"HEALTHCHECK", "ENTRYPOINT", "CMD"} <= set(names[names.index("USER") :])


def test_it_starts_serve_where_its_health_is_asked_for(stages):
    (entry,), (command,) = _all(stages[-1], "ENTRYPOINT"), _all(stages[-1], "CMD")
    assert json.loads(entry) == ["delf_tf"]
    tool, *arguments = json.loads(command)
    assert tool == "serve"
    parsed = copy.deepcopy(serve.FLAGS)
    parsed.unparse_flags()
    parsed(["serve", *arguments])
    assert (parsed.host, parsed.port) == ("0.0.0.0", 8000)
    assert _all(stages[-1], "EXPOSE") == ["8000"]


def test_what_is_copied_is_all_that_the_package_is_made_of(stages, repository):
    copied = [one.split()[:-1] for one in _all(stages[0], "COPY")]
    sources = {name for names in copied for name in names}
    assert all((repository / name).exists() for name in sources)
    assert {"setup.py", "pyproject.toml", "README.md", "delf_tf"} <= sources
    packages = re.findall(
        r'^    "delf_tf\.\w+": "(\w+)"', (repository / "setup.py").read_text(), re.M
    )
    assert packages
    assert set(packages) <= sources


def test_the_health_check_tells_a_server_from_none(stages, tmp_path, repository):
    command = [sys.executable, "-m", "tests.serving.served", str(tmp_path), "{}"]
    server = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().strip()
        assert _health_check(stages, address).returncode == 0
    finally:
        server.kill()
        server.communicate()
    assert _health_check(stages, address).returncode == 1


def _inside(text, root):
    return _INSIDE.sub(lambda found: f"{root}/{found.group(1)}", text)


def _execute(stage, root, repository):
    """Runs a stage's steps; returns the environment that it leaves."""
    environment = {"PATH": f"{Path(sys._base_executable).parent}:{os.environ['PATH']}"}
    folder = root
    for name, told in stage:
        arguments = _inside(told, root)
        if name == "WORKDIR":
            folder = Path(arguments)
            folder.mkdir(parents=True, exist_ok=True)
        elif name == "ENV":
            key, _, value = arguments.partition("=")
            environment[key] = value
        elif name == "COPY" and not arguments.startswith("--from"):
            *sources, target = arguments.split()
            for source in sources:
                if (repository / source).is_dir():
                    shutil.copytree(repository / source, folder / target, dirs_exist_ok=True)
                else:
                    shutil.copy(repository / source, folder / target)
        elif name == "RUN":
            subprocess.run(["sh", "-e", "-c", arguments], check=True, cwd=folder, env=environment)
    return environment


@pytest.mark.slow
def test_its_steps_make_what_serves(stages, tmp_path, repository):
    for stage in stages:
        environment = _execute(stage, tmp_path, repository)
    data = tmp_path / "data"
    (data / "photos").mkdir()
    for seed in range(3):
        pattern = np.random.RandomState(seed).randint(0, 256, (12, 12, 3)).astype(np.uint8)
        Image.fromarray(pattern).resize((320, 240)).save(data / "photos" / f"{seed}.png")
    tool = [str(tmp_path / "opt" / "delf_tf" / "bin" / "delf_tf")]
    made = [*tool, "retrieve", "--database_dir=photos", "--output_dir=found"]
    subprocess.run(made, check=True, cwd=data, env=environment)
    (command,) = _all(stages[-1], "CMD")
    serving = [*tool, *json.loads(command), "--port=0"]
    server = subprocess.Popen(serving, cwd=data, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().strip().replace("0.0.0.0", "127.0.0.1")
        assert _health_check(stages, address).returncode == 0
        picture = (data / "photos" / "1.png").read_bytes()
        with urllib.request.urlopen(f"{address}/api/query", data=picture, timeout=60) as response:
            assert json.load(response)["two_stage"][0]["id"] == "1.png"
    finally:
        server.kill()
        server.communicate()
