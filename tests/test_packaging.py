"""What pip installs: nothing but delf_tf, whole, importable far from the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

_COPIED = ("delf_tf", "protos", "configs", "tools", "setup.py", "pyproject.toml", "README.md")


@pytest.fixture(scope="module")
def built(repository, tmp_path_factory):
    """The wheel and the sdist, built from a copy of the checkout's own files."""
    source = tmp_path_factory.mktemp("source")
    for name in (*_COPIED, "MANIFEST.in", "LICENSE", "CHANGELOG.md", "Makefile"):
        copy = shutil.copytree if (repository / name).is_dir() else shutil.copy
        copy(repository / name, source / name)
    argv = [sys.executable, "-W", "ignore", "-m", "build", "--no-isolation", "--outdir", "dist"]
    subprocess.run(argv, check=True, cwd=source, capture_output=True)
    return source / "dist"


def test_the_wheel_holds_one_package(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"delf_tf"}
    for needed in (
        "delf_tf/py.typed",
        "delf_tf/protos/datum_pb2.py",
        "delf_tf/protos/datum.proto",
        "delf_tf/configs/mobilenet_v2_imagenet.textproto",
        "delf_tf/tools/main.py",
        "delf_tf/report/page.html",
        "delf_tf/models/zoo/weights/compact.npz",
    ):
        assert needed in names


def test_the_sdist_builds_the_same_wheel(built, tmp_path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"setup.py", "README.md", "LICENSE", "protos/datum.proto", "tools/main.py"} <= names


def test_an_installed_wheel_works_without_the_checkout(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    script = (
        "import delf_tf, delf_tf.config\n"
        "from delf_tf.tools import main\n"
        f"assert delf_tf.__file__.startswith({str(tmp_path)!r})\n"
        f"assert main.__file__.startswith({str(tmp_path)!r})\n"
        "assert 'mobilenet_v2_imagenet' in delf_tf.config.list_configs()\n"
        "raise SystemExit(main.main(['delf_tf', '--help']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment)


def test_the_promised_pythons_are_said_alike(repository):
    def found(path, pattern):
        return re.findall(pattern, (repository / path).read_text())

    minors = [10, 11, 12, 13]
    assert found(".ci/run", r'VERSIONS="(.+)"') == [" ".join(f"3.{minor}" for minor in minors)]
    for path in ("README.md", "Makefile"):
        assert found(path, r"Python (3\.\d+) to (3\.\d+)") == [("3.10", "3.13")]
    assert found("setup.py", r'python_requires=">=3\.(\d+)"') == ["10"]
    assert found("setup.py", r"minor in range\((\d+), (\d+)\)") == [("10", "14")]
    assert found("pyproject.toml", r'target-version = "py3(\d+)"') == ["10"]
