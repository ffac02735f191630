"""The commands of docs/, executed as they stand on a small collection of photographs."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import uvicorn

from delf_tf import config
from delf_tf.synthetic import collection
from delf_tf.tools import main

# What would take hours is begun alone, on the same records.
SMALL = {
    "train": [
        "--set=training.run.num_steps=1",
        "--set=training.input.batch_size=2",
        "--set=training.input.image_size=64",
    ],
    "compare": [
        "--num_report_queries=2",
    ],
}
DOCS = [
    "choosing_a_system",
    "file_formats",
    "from_delf",
    "from_hloc",
    "scaling_out",
    "training_gldv2",
    "your_own_images",
]


def _blocks(repository, name, language):
    text = (repository / "docs" / f"{name}.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


def _run(line):
    argv = shlex.split(line)
    assert argv[0] == "delf_tf"
    assert main.main([*argv, *SMALL.get(argv[1], [])]) == 0, line


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Photographs of generated landmarks as `photos`, with `labels.csv`, and as `gldv2`."""
    root = tmp_path_factory.mktemp("docs")
    labels = collection.write_collection(
        root / "made", num_landmarks=4, views_per_landmark=3, num_distractors=2, image_side=320
    )
    (labels.parent / "images").rename(root / "photos")
    labels.rename(root / "labels.csv")
    with (root / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    train, clean = ["id,url,landmark_id"], {}
    for number, row in enumerate(row for row in rows if row["place"]):
        one = f"{number:016x}"
        landmark = int(re.sub(r"\D", "", row["place"]))
        to = root / "gldv2" / "train" / one[0] / one[1] / one[2] / f"{one}.jpg"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "photos" / row["image"], to)
        train.append(f"{one},,{landmark}")
        clean.setdefault(landmark, []).append(one)
    (root / "gldv2" / "train.csv").write_text("\n".join(train) + "\n")
    lines = ["landmark_id,images", *(f"{key},{' '.join(ids)}" for key, ids in clean.items())]
    (root / "gldv2" / "train_clean.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(
    "name",
    # A step of DELG's ResNet-50 takes most of a minute to trace.
    [pytest.param(n, marks=pytest.mark.slow) if n == "training_gldv2" else n for n in DOCS],
)
def test_commands_run(repository, photographs, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for entry in photographs.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    commands = "\n".join(_blocks(repository, name, "sh")).replace("\\\n", " ").splitlines()
    assert any(commands)
    for line in filter(None, commands):
        _run(line)
    for example in _blocks(repository, name, "python"):
        subprocess.run([sys.executable, "-c", example], check=True, cwd=tmp_path)
    if name == "from_hloc":
        # Each of 14 images has 5 results; two that find each other are one pair.
        assert 36 <= len(Path("table/pairs.csv").read_text().splitlines()) <= 71
        assert Path("for_hloc/matches.h5").is_file()
        assert Path("for_colmap/database.db").is_file()
    if name == "file_formats":
        Path("abc.csv").write_text("image,place\na,x\nb,x\nc,\n")
        _run("delf_tf evaluate --ground_truth=abc.csv --ranking=elsewhere.npz")


@contextlib.contextmanager
def _served(app):
    """Serves an application on this machine; yields its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(60)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_commands_of_serving_run(repository, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photographs / "photos", "photos")
    image = min(Path("photos").iterdir())
    for name in ("new.jpg", "query.jpg"):
        shutil.copy(image, name)
    apps: list = []
    monkeypatch.setattr("delf_tf.serving.server.run", lambda app, *_, **__: apps.append(app))
    first, change, ask = (block.splitlines() for block in _blocks(repository, "serving", "sh"))
    for line in first:
        _run(line)
    subprocess.run(["sh", "-e", "-c", change[0]], check=True)
    _run(change[1])
    with _served(apps[-1]) as address:
        told = [
            subprocess.run(
                ["sh", "-e", "-c", line.replace("127.0.0.1:8000", address)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            for line in ask
        ]
    num_images = len(list(Path("photos").iterdir()))
    assert json.loads(told[0]) == {"id": "2024/new.jpg", "num_images": num_images}
    best = json.loads(told[1])["two_stage"][:2]
    assert {hit["id"] for hit in best} == {"2024/new.jpg", image.name}
    assert json.loads(told[2])["num_images"] == num_images - 1
    assert f"delf_tf_collection_images {num_images - 1}.0" in told[3]
    assert len(apps) == 2


def test_every_page_is_tested_and_every_link_leads_somewhere(repository):
    pages = {path.stem for path in (repository / "docs").glob("*.md")}
    assert pages == {*DOCS, "architecture", "compact_model", "dolg_ablations", "serving"}
    for path in [repository / "README.md", *(repository / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_tools_and_configs_that_are_named_exist(repository):
    for path in [repository / "README.md", *(repository / "docs").glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        for tool in re.findall(r"`delf_tf ([a-z_]+)", text):
            assert tool in main.TOOLS, f"{path.name}: {tool}"
        for name in re.findall(r"--config=([a-z]\w+)", text):
            shipped = [*config.list_configs(), *config.list_comparisons()]
            assert name in shipped, f"{path.name}: {name}"
